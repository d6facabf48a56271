"""Which neurons are predictable: moments, scores, tables and diets. Imports neither torch, Lightning nor pandas."""

from poyo_ssl_plugin.predictability.diet import (
    PAPER_KURTOSIS,
    PAPER_PRETRAIN_CRE_LINES,
    PAPER_SKEWNESS,
    Diet,
    unpredictability,
)
from poyo_ssl_plugin.predictability.moments import Moments, skewness_kurtosis
from poyo_ssl_plugin.predictability.registered_statistics import (
    register_statistic,
    statistic_names,
    unregister_statistic,
)
from poyo_ssl_plugin.predictability.rules import configured_diet, doubt, fed_recordings, make_diet
from poyo_ssl_plugin.predictability.score import score_dataset
from poyo_ssl_plugin.predictability.table import PredictabilityTable

__all__ = [
    "PAPER_KURTOSIS",
    "PAPER_PRETRAIN_CRE_LINES",
    "PAPER_SKEWNESS",
    "Diet",
    "Moments",
    "PredictabilityTable",
    "configured_diet",
    "doubt",
    "fed_recordings",
    "make_diet",
    "register_statistic",
    "score_dataset",
    "skewness_kurtosis",
    "statistic_names",
    "unpredictability",
    "unregister_statistic",
]
