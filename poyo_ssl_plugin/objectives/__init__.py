"""Objectives of pretraining. They know tensors and models, not datasets."""

from poyo_ssl_plugin.models import decorrelation, identify_units
from poyo_ssl_plugin.objectives.activity_masks import ACTIVITY_MASKS
from poyo_ssl_plugin.objectives.decorrelated_latents import Decorrelation
from poyo_ssl_plugin.objectives.ema_teacher import EMATeacher
from poyo_ssl_plugin.objectives.health import centred_latents, effective_rank, input_dependent_std, latent_health
from poyo_ssl_plugin.objectives.masked_activity import MaskedActivity
from poyo_ssl_plugin.objectives.masked_latent import MaskedLatentReconstruction
from poyo_ssl_plugin.objectives.masking import MASKS, LatentLayout, get_mask
from poyo_ssl_plugin.objectives.none import NoReconstruction
from poyo_ssl_plugin.objectives.output import ObjectiveOutput

__all__ = [
    "ACTIVITY_MASKS",
    "MASKS",
    "Decorrelation",
    "EMATeacher",
    "LatentLayout",
    "MaskedActivity",
    "MaskedLatentReconstruction",
    "NoReconstruction",
    "ObjectiveOutput",
    "centred_latents",
    "decorrelation",
    "effective_rank",
    "get_mask",
    "identify_units",
    "input_dependent_std",
    "latent_health",
]
