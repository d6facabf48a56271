"""The calcium POYO, and what all POYO-family models share."""

from poyo_ssl_plugin.models.calcium_poyo import CalciumPOYO
from poyo_ssl_plugin.models.frame_decoder import SkipConnectionDecoder
from poyo_ssl_plugin.models.latents import LatentPass, check_family, process_latents, run_with_latents
from poyo_ssl_plugin.models.readout import MultitaskReadout
from poyo_ssl_plugin.models.vocabulary import replace_vocabulary

__all__ = [
    "CalciumPOYO",
    "LatentPass",
    "MultitaskReadout",
    "SkipConnectionDecoder",
    "check_family",
    "process_latents",
    "replace_vocabulary",
    "run_with_latents",
]
