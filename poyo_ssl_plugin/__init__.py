"""Self-supervised pretraining for neural recordings, as a plugin of torch_brain.

Public names are loaded on first use, so ``import poyo_ssl_plugin`` is quick and
``poyo_ssl_plugin.predictability`` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOME = {
    "score_dataset": "predictability",
    "PredictabilityTable": "predictability",
    "Diet": "predictability",
    "PredictabilitySampler": "data",
    "CurriculumSampler": "data",
    "SelectUnits": "data",
    "DietUnitDropout": "data",
    "Recordings": "data",
    "CalciumPOYO": "models",
    "SkipConnectionDecoder": "frames",
    "MaskedLatentReconstruction": "objectives",
    "MaskedActivity": "objectives",
    "EMATeacher": "objectives",
    "FrameLoss": "frames",
    "PopulationDecoder": "population_decoder",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from poyo_ssl_plugin.data import (
        CurriculumSampler,
        DietUnitDropout,
        PredictabilitySampler,
        Recordings,
        SelectUnits,
    )
    from poyo_ssl_plugin.frames import FrameLoss, SkipConnectionDecoder
    from poyo_ssl_plugin.models import CalciumPOYO
    from poyo_ssl_plugin.objectives import EMATeacher, MaskedActivity, MaskedLatentReconstruction
    from poyo_ssl_plugin.population_decoder import PopulationDecoder
    from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, score_dataset


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
