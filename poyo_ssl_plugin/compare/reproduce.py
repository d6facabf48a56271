"""Rerun the comparisons behind a page of results, and put what they say side by side."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from poyo_ssl_plugin.compare.answer import Answer, Column, PlannedDifference
from poyo_ssl_plugin.compare.answer_figure import draw_answer
from poyo_ssl_plugin.compare.arms import get_arms
from poyo_ssl_plugin.compare.comparison import Stage
from poyo_ssl_plugin.compare.estimates import Estimate, PairedComparison, Scores, compare_scores, estimate, holm
from poyo_ssl_plugin.compare.report import report_comparison
from poyo_ssl_plugin.compare.results import ComparisonSummary, independent_values, to_json
from poyo_ssl_plugin.compare.settings import comparison_from_overrides, prepare_recordings
from poyo_ssl_plugin.configuration import recipes_dir
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.files import atomic_path, write_json
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.training.decoding import LOG_LOSS

_SMALL = ["trainer.max_steps=3", "trainer.val_every_n_steps=3", "trainer.limit_val_batches=4", "data.batch_size=16"]
_SMALL_SIMULATION = {"n_units": 24, "minutes": 4}


@dataclass(frozen=True)
class Question:
    """A question that a page of results answers, as ``recipes/reproduce/NAME.yaml`` states it.

    Attributes:
        question: The question.
        shared: Settings of :class:`~poyo_ssl_plugin.compare.protocol.Comparison` that all comparisons share.
        columns: The comparisons by name, each with its own settings; lists of overrides are put after the shared ones.
        planned: Pairs of arms that were to be compared, as ``{column, arm, reference}``, with ``beside: log_loss`` in
            that instead of the metric. Holm's adjustment is over these.
        data_sets: Independent data sets by name, each with its own settings. Every comparison is done on each,
            and each counts once. Without any, the folds of one recording count.
        simulate: How to simulate a data set; empty if ``root`` must be given.
    """

    question: str
    columns: Mapping[str, ReadOnlyValues]
    planned: Sequence[Mapping[str, str]]
    shared: ReadOnlyValues = field(default_factory=dict)
    data_sets: Mapping[str, ReadOnlyValues] = field(default_factory=dict)
    simulate: ReadOnlyValues = field(default_factory=dict)


def question_names() -> list[str]:
    """Names of the questions that can be rerun."""
    return sorted(path.stem for path in (recipes_dir() / "reproduce").glob("*.yaml"))


def get_question(name: str) -> Question:
    """A question by its name.

    Raises:
        RecipeError: If there is none of that name.

    Example:
        >>> get_question("few_labels").question
        'Does pretraining pay on one real session, and from how few labels?'
    """
    if name not in question_names():
        close = difflib.get_close_matches(name, question_names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(question_names())}"
        raise RecipeError(f"unknown question {name!r}; {hint}")
    content = yaml.safe_load((recipes_dir() / "reproduce" / f"{name}.yaml").read_text(encoding="utf-8"))
    return Question(**content)


def reproduce(
    question: Question,
    out_dir: str | Path,
    changes: ReadOnlyValues | None = None,
    *,
    only: Sequence[str] = (),
    columns: Sequence[str] = (),
    small: bool = False,
    stage: Stage | None = None,
) -> Answer:
    """Do all comparisons of a question; finished runs are kept.

    Args:
        question: The question.
        out_dir: Folder of everything that is written: the comparisons, ``answer.json``, ``answer.md``,
            ``answer.png``, ``runs.csv`` with the value of every run, and ``pretraining.csv`` with what was measured
            on held-out time when each pretraining ended.
        changes: Settings that come after those of the question, such as ``root``.
        only: Names of the data sets to do, so that machines can share a question; empty for all.
        columns: Names of the comparisons to do, likewise. Planned differences of others are left out, of Holm's
            adjustment too.
        small: Three steps a run, one seed, two folds, two data sets: shows that all of it runs, and decides nothing.
        stage: As :func:`~poyo_ssl_plugin.compare.comparison.run_comparison`.

    Returns:
        What all comparisons say, the content of ``answer.json``.

    Raises:
        PoyoSSLError: If a comparison cannot be made as it is asked for.
    """
    changes = dict(changes or {})
    if not question.simulate and "root" not in changes:
        raise RecipeError("root is not set: give root=..., the folder of the recordings that this question is about")
    if not small:
        _check_changes(question, changes)
    chosen = _chosen("column", question.columns, columns)
    question = replace(
        question, columns=chosen, planned=[plan for plan in question.planned if plan["column"] in chosen]
    )
    data_sets = list(_chosen("data set", question.data_sets, only).items()) or [("", {})]
    summaries: dict[str, list[ComparisonSummary]] = {column: [] for column in question.columns}
    for name, own in data_sets[:2] if small else data_sets:
        place, own = Path(out_dir, name), dict(own)
        recordings = {**question.simulate, **own.pop("simulate", {})}
        if recordings and "root" not in changes:
            if small:
                recordings |= _SMALL_SIMULATION
            own["root"] = str(place / "recordings")
            prepare_recordings(own["root"], recordings, stage and stage(f"{name} simulating", 0))
        for column, settings in question.columns.items():
            values = _joined(question.shared, own, settings, changes)
            values |= {"out_dir": str(place / column.replace(" ", "_")), "pretrain_dir": str(place / "pretrained")}
            comparison, _ = comparison_from_overrides(_texts(_smaller(values) if small else values))
            prefix = " ".join(filter(None, (name, column)))
            part = None if stage is None else (lambda text, n, prefix=prefix: stage(f"{prefix} {text}", n))
            summaries[column].append(report_comparison(comparison, title=f"{question.question} {prefix}", stage=part))
    answer = _answer(question, summaries, small=small)
    write_json(Path(out_dir, "answer.json"), to_json(answer))
    with atomic_path(Path(out_dir, "answer.md")) as path:
        path.write_text("\n".join(answer.lines()) + "\n", encoding="utf-8")
    draw_answer(answer, Path(out_dir, "answer.png"))
    names = [name for name, _ in data_sets]
    for file, table in (("runs.csv", _runs(names, summaries)), ("pretraining.csv", _pretraining(names, summaries))):
        with atomic_path(Path(out_dir, file)) as path:
            table.to_csv(path, index=False, float_format="%.6g")
    return answer


def _check_changes(question: Question, changes: ReadOnlyValues) -> None:
    """Refuse what would make one data set count as many, or leave out what is to be compared."""
    own = {"root" if key == "simulate" else key for settings in question.data_sets.values() for key in settings}
    if same := sorted(own & set(changes)):
        raise RecipeError(
            f"{same[0]} is what the data sets of this question differ in, and with one {same[0]} for all of them the "
            "same runs would count many times; leave it out, or do one comparison with 'poyo-ssl compare'"
        )
    if "arms" in changes:
        arms = changes["arms"]
        names = {arm.name for arm in get_arms(arms if isinstance(arms, list) else [arms])}
        lacking = {plan[role] for plan in question.planned for role in ("arm", "reference")} - names
        if lacking:
            raise RecipeError(
                f"arms leaves out {', '.join(sorted(lacking))}, which this question is about; leave arms out, or "
                "choose them in 'poyo-ssl compare'"
            )


def _chosen(what: str, found: Mapping[str, ReadOnlyValues], names: Sequence[str]) -> dict[str, ReadOnlyValues]:
    unknown = [name for name in names if name not in found]
    if unknown:
        raise RecipeError(f"unknown {what} {unknown[0]!r}; those of this question: {', '.join(found) or 'none'}")
    return {name: own for name, own in found.items() if not names or name in names}


def _runs(data_sets: Sequence[str], summaries: Mapping[str, Sequence[ComparisonSummary]]) -> pd.DataFrame:
    """A row for each run of all comparisons, and one for each simple decoder of a comparison, without seed or fold."""
    rows: list[Values] = []
    for column, found in summaries.items():
        for data_set, summary in zip(data_sets, found, strict=False):
            place = {"data_set": data_set, "column": column}
            for arm, result in summary.arms.items():
                rows += [{**place, "decoder": arm, **to_json(run), "git": summary.git} for run in result.runs]
            for name, tested in summary.baselines.items():
                values = {key: value for key, value in to_json(tested).items() if key not in ("ci95", "trials")}
                rows.append({**place, "decoder": name, **values, "git": summary.git})
    return pd.DataFrame(rows)


def _pretraining(data_sets: Sequence[str], summaries: Mapping[str, Sequence[ComparisonSummary]]) -> pd.DataFrame:
    """A row for each pretraining of all comparisons: what it cost, and what held-out time says of its latents."""
    rows: list[Values] = []
    for column, found in summaries.items():
        for data_set, summary in zip(data_sets, found, strict=False):
            for run in summary.pretraining:
                spent = {"seconds": run.seconds, "steps": run.steps, "windows": run.windows}
                which = {"data_set": data_set, "column": column, "arm": run.arm, "fold": run.fold, "seed": run.seed}
                held_out = {key.removeprefix("valid/"): value for key, value in run.metrics.items() if "valid/" in key}
                rows.append({**which, **spent, **held_out, "git": summary.git})
    return pd.DataFrame(rows)


def _joined(*settings: ReadOnlyValues) -> Values:
    """Settings, the later before the earlier; overrides of recipes are added up."""
    values: Values = {}
    for part in settings:
        for key, value in part.items():
            lists = key in ("pretrain", "finetune")
            values[key] = [*values.get(key, []), *([value] if isinstance(value, str) else value)] if lists else value
    return values


def _smaller(values: Values) -> Values:
    few = {"seeds": [0], **({"folds": 2} if values.get("folds") else {})}
    return {**values, **few} | {key: [*values.get(key, []), *_SMALL] for key in ("pretrain", "finetune")}


def _texts(values: ReadOnlyValues) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def _answer(question: Question, summaries: Mapping[str, Sequence[ComparisonSummary]], *, small: bool) -> Answer:
    columns = {name: _column(found) for name, found in summaries.items()}
    pairs = [_difference(summaries[plan["column"]], plan, plan.get("beside")) for plan in question.planned]
    adjusted = holm([pair.p for pair in pairs])
    return Answer(
        question=question.question,
        small=small,
        unit=_unit(next(iter(summaries.values()))),
        columns=columns,
        planned=[
            PlannedDifference(
                **vars(pair),
                column=plan["column"],
                arm=plan["arm"],
                reference=plan["reference"],
                p_holm=p_holm,
                beside=plan.get("beside"),
                log_loss=_difference(summaries[plan["column"]], plan, LOG_LOSS)
                if columns[plan["column"]].log_loss and "beside" not in plan
                else None,
            )
            for plan, pair, p_holm in zip(question.planned, pairs, adjusted, strict=True)
        ],
    )


def _difference(
    summaries: Sequence[ComparisonSummary], plan: Mapping[str, str], beside: str | None = None
) -> PairedComparison:
    return compare_scores(*(_scores(summaries, plan[role], beside) for role in ("arm", "reference")))


def _column(summaries: Sequence[ComparisonSummary]) -> Column:
    first = summaries[0]
    return Column(
        arms={name: _scores(summaries, name).estimate((0, 1)) for name in first.arms},
        simple_decoders={
            name: float(np.mean([summary.baselines[name].value for summary in summaries])) for name in first.baselines
        },
        chance=first.chance,
        metric=first.metric,
        seconds=sum(summary.seconds for summary in summaries),
        git=first.git,
        log_loss=_losses(summaries),
    )


def _losses(summaries: Sequence[ComparisonSummary]) -> dict[str, Estimate]:
    """Log-loss of the arms and simple decoders that give probabilities."""
    first = summaries[0]
    if LOG_LOSS not in first.beside:
        return {}
    found = {name: _scores(summaries, name, LOG_LOSS).estimate() for name in first.arms}
    for name, tested in first.baselines.items():
        if LOG_LOSS in tested.further:
            found[name] = estimate([summary.baselines[name].further[LOG_LOSS] for summary in summaries])
    return found


def _unit(summaries: Sequence[ComparisonSummary]) -> str:
    """What counts once."""
    if len(summaries) > 1:
        return "data set"
    return "fold" if summaries[0].folds else "seed"


def _scores(summaries: Sequence[ComparisonSummary], arm: str, beside: str | None = None) -> Scores:
    """One value per data set, or, of a single one, per fold or seed; of the metric, or of what is logged beside it."""
    values = [np.array(independent_values(summary.arms[arm].runs, beside)) for summary in summaries]
    if len(summaries) > 1:
        return Scores(np.array([[of_data_set.mean()] for of_data_set in values]))
    return Scores(values[0], folds=True) if summaries[0].folds else Scores(values[0][:, None])
