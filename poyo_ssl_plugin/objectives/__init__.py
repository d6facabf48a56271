"""Objectives of pretraining. They know tensors and models, not datasets."""

from poyo_ssl_plugin.objectives.ema_teacher import EMATeacher
from poyo_ssl_plugin.objectives.health import centred_latents, effective_rank, input_dependent_std
from poyo_ssl_plugin.objectives.masked_activity import ACTIVITY_MASKS, MaskedActivity
from poyo_ssl_plugin.objectives.masked_latent import (
    MaskedLatentReconstruction,
    Reconstruction,
    latent_health,
    variance_covariance,
)
from poyo_ssl_plugin.objectives.masking import MASKS, LatentLayout, get_mask
from poyo_ssl_plugin.objectives.none import NoReconstruction

__all__ = [
    "ACTIVITY_MASKS",
    "MASKS",
    "EMATeacher",
    "LatentLayout",
    "MaskedActivity",
    "MaskedLatentReconstruction",
    "NoReconstruction",
    "Reconstruction",
    "centred_latents",
    "effective_rank",
    "get_mask",
    "input_dependent_std",
    "latent_health",
    "variance_covariance",
]
