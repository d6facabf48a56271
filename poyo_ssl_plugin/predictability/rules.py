"""Diets by rule and by name, as recipes write them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from poyo_ssl_plugin.errors import DietError, TableError
from poyo_ssl_plugin.extensions import extension_names, load_extension
from poyo_ssl_plugin.predictability.diet import Diet, indicator
from poyo_ssl_plugin.predictability.table import PredictabilityTable

logger = logging.getLogger(__name__)

Rule = Callable[..., Diet]


def _random_matched(table: PredictabilityTable, *, seed: int = 0, **thresholds: float) -> Diet:
    """As many neurons as are predictable, of any kind, at random: the control of the diet's size."""
    return Diet.random(table, n_units=len(Diet.from_thresholds(table, **thresholds)), seed=seed)


def _mixed(table: PredictabilityTable, *, seed: int = 0, **thresholds: float) -> Diet:
    """As many neurons as are predictable, half of them predictable and half not, at random.

    Where there are too few unpredictable ones, as many of each kind as there are of those.
    """
    predictable = Diet.from_thresholds(table, **thresholds)
    inside = predictable.members_of(table)
    kinds = [np.flatnonzero(inside), np.flatnonzero(table.ok & ~inside)]
    n = min(len(kinds[0]) // 2, len(kinds[1]))
    if n == 0:
        raise DietError(
            f"a mixed diet needs neurons of both kinds; there are {len(kinds[0])} predictable and {len(kinds[1])} "
            "unpredictable ones"
        )
    rng = np.random.default_rng(seed)
    keep = indicator(len(table), np.concatenate([rng.permutation(kind)[:n] for kind in kinds]))
    return Diet(table, keep, name="mixed", rule={**predictable.rule, "kind": "mixed", "seed": seed})


RULES: dict[str, Rule] = {
    "predictable": Diet.from_thresholds,
    "unpredictable": lambda table, **options: Diet.from_thresholds(table, **options).complement(),
    "all": Diet.everything,
    "random": Diet.random,
    "random_matched": _random_matched,
    "mixed": _mixed,
    "quantile": Diet.from_quantile,
    "cre_lines": Diet.from_cre_lines,
    "not_cre_lines": lambda table, **options: Diet.from_cre_lines(table, **options).complement(),
}


def make_diet(table: PredictabilityTable | str | Path | None, rule: str = "predictable", **options: Any) -> Diet:
    """A diet from a table and the name of a rule.

    Args:
        table: A table, or the file that ``poyo-ssl score`` wrote.
        rule: ``predictable``, ``unpredictable``, ``all``, ``random``, ``random_matched``, ``mixed``,
            ``quantile``, ``cre_lines`` or ``not_cre_lines``, or one that another distribution offers
            (``docs/ecosystem.md``).
        **options: Arguments of the rule, such as ``skewness`` and ``kurtosis``; and ``fraction``, for a
            random part of the neurons (:meth:`Diet.subset`).

    Raises:
        TableError: If there is no table.
        DietError: If the rule or an option of it is unknown.
        ExtensionError: If the distribution that offers the rule is broken.

    Example:
        >>> table = PredictabilityTable.from_rows([
        ...     dict(recording_id="a", unit_id="1", skewness=0.5, kurtosis=1.0),
        ...     dict(recording_id="a", unit_id="2", skewness=6.0, kurtosis=50.0),
        ... ])
        >>> make_diet(table, "unpredictable", skewness=4.0).units("a")
        ['2']
    """
    if table is None or str(table) == "???":
        raise TableError(
            "a diet needs the table of scored neurons: run 'poyo-ssl score DATASET_DIR --out table.csv' and pass "
            "diet.table=table.csv"
        )
    make = RULES.get(rule) or load_extension("diets", rule)
    if make is None:
        raise DietError(f"unknown diet rule {rule!r}; there are {', '.join([*RULES, *extension_names('diets')])}")
    if not isinstance(table, PredictabilityTable):
        table = PredictabilityTable.load(table)
    # ``random`` has a fraction of its own, of all neurons.
    fraction = 1.0 if "fraction" in inspect.signature(make).parameters else options.pop("fraction", 1.0)
    options.pop("_target_", None)  # of the recipe that the options come from
    try:
        diet = make(table, **options)
    except TypeError as error:
        raise DietError(f"diet {rule!r}: {error}") from None
    if fraction != 1:
        diet = diet.subset(fraction)
    if len(diet) == 0:
        raise DietError(
            f"diet {rule!r} {diet.summary()}: it keeps nothing; choose other thresholds, or another diet=..."
        )
    return diet


def configured_diet(table: str | Path | None = None, rule: str = "predictable", **options: Any) -> Diet | None:
    """:func:`make_diet`, as Hydra configurations name it: says in the log what the diet kept.

    With Hydra, ``+diet=x`` is a plain key where the plugin is not installed; this line is the proof
    that it is.

    Returns:
        The diet; for ``all`` without a table ``None``, which transforms and samplers take for all neurons.

    Example:
        >>> configured_diet(rule="all") is None
        True
        >>> rows = [dict(recording_id="a", unit_id=str(i), skewness=3.0 * i, kurtosis=0.0) for i in range(3)]
        >>> configured_diet(PredictabilityTable.from_rows(rows)).units("a")
        ['0', '1']
    """
    if rule == "all" and table is None and not options:
        logger.info("diet kept all units, scored or not (all)")
        return None
    diet = make_diet(table, rule, **options)
    logger.info("diet %s of those in the table (%s)", diet.summary(), diet.name)
    return diet


def fed_recordings(diet: Diet | None) -> list[str] | None:
    """The recordings of which a diet has neurons, for a dataset's ``recording_ids``; ``None`` stands for all.

    Example:
        >>> skewness = {"a": 1.0, "b": 9.0}
        >>> rows = [dict(recording_id=name, unit_id="0", skewness=skewness[name], kurtosis=0.0) for name in skewness]
        >>> fed_recordings(Diet.from_thresholds(PredictabilityTable.from_rows(rows))), fed_recordings(None)
        (['a'], None)
    """
    return None if diet is None else [recording for recording in diet.recordings if diet.count(recording) > 0]


def doubt(diet: Diet) -> str | None:
    """What to say of a diet by thresholds that keeps nearly all neurons or hardly any; ``None`` if nothing is odd.

    Example:
        >>> rows = [dict(recording_id="a", unit_id=str(i), skewness=9.0, kurtosis=99.0) for i in range(20)]
        >>> doubt(Diet.from_thresholds(PredictabilityTable.from_rows(rows)))[:50]
        'the thresholds keep 0 of 20 scored neurons; they w'
    """
    kept, scored = len(diet), len(diet) + len(diet.complement())
    if scored < 10 or 0.02 < kept / scored < 0.95:
        return None
    return (
        f"the thresholds keep {kept} of {scored} scored neurons; they were set for dF/F of GCaMP6f. For another "
        "indicator, or spikes, take the most predictable half instead, diet=quantile, or thresholds of your own "
        "(docs/diet.md)"
    )
