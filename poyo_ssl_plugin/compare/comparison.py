"""Arms of pretraining against from scratch: the same neurons, the same budget, the same seeds, the same trials."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from poyo_ssl_plugin.compare.decoded_neurons import diet_of
from poyo_ssl_plugin.compare.executors import run_all
from poyo_ssl_plugin.compare.metrics import reference_rows
from poyo_ssl_plugin.compare.perform import inputs_of, perform
from poyo_ssl_plugin.compare.plan import Plan, compose, make_plan, shared_recipes
from poyo_ssl_plugin.compare.protocol import EXECUTION, Comparison
from poyo_ssl_plugin.compare.results import summarise
from poyo_ssl_plugin.predictability import PredictabilityTable, make_diet
from poyo_ssl_plugin.provenance import git_revision, versions
from poyo_ssl_plugin.training import Inputs

Stage = Callable[[str, int], Any]


@dataclass(frozen=True)
class ComparisonResult:
    """What came of a comparison.

    Attributes:
        summary: The content of ``results.json``.
        pretraining: Folders of the pretraining runs, by arm, fold and, if there are several, seed.
        finetuning: Folders of the fine-tuning runs, by arm, fold and seed.
        plan: What was done.
    """

    summary: dict[str, Any]
    pretraining: dict[str, Path]
    finetuning: dict[str, Path]
    plan: Plan = field(repr=False)

    @property
    def table(self) -> PredictabilityTable:
        """The scored neurons, of the first fold."""
        return self.plan.folds[0].table


def run_comparison(comparison: Comparison, *, stage: Stage | None = None) -> ComparisonResult:
    """Pretrain every arm as it wants, fine-tune all of them alike, and compare them with training from scratch.

    Scores come from training time only, fold by fold; the neurons decoded are none that any arm's pretraining
    saw. All runs are planned and checked before the first. Finished runs of an earlier start are not repeated
    if nothing that changes their numbers has changed; runs of other settings are left alone.

    Args:
        comparison: What to compare.
        stage: Given the name of a stage and its number of runs, wraps its runs to show progress.

    Raises:
        PoyoSSLError: If the recordings, the task, an arm or an override are not as they must be.
    """
    began = time.monotonic()
    plan = make_plan(comparison)
    plan.write_tables()
    pretrained, finetuned = (
        run_all(perform, runs, comparison.executor, progress=stage and stage(name, len(runs)))
        for name, runs in (("pretraining", plan.pretraining), ("fine-tuning", plan.finetuning))
    )
    summary = {
        **summarise(plan, pretrained, finetuned, _baselines(plan)),
        "neurons": _neurons(plan),
        "comparison": _echo(comparison),
        "recipes": shared_recipes(comparison, plan.arms),
        "versions": versions(),
        "git": git_revision(),
        "seconds": round(time.monotonic() - began, 1),
    }
    before, after = ({run.name: run.folder for run in runs} for runs in (plan.pretraining, plan.finetuning))
    return ComparisonResult(summary, before, after, plan)


def _echo(comparison: Comparison) -> dict[str, Any]:
    """The settings as plain JSON, without those that only say how runs are done."""
    content = {name: value for name, value in asdict(comparison).items() if name not in EXECUTION}
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def _baselines(plan: Plan) -> dict[str, Any]:
    comparison = plan.comparison
    config = compose("finetune", comparison.task, comparison.finetune)
    of_run = plan.finetuning[0].recipe
    config.data.root, config.diet.table = of_run["data"]["root"], of_run["diet"]["table"]
    config.data.field = of_run["data"]["field"]
    return reference_rows(config, _decoded_inputs(plan))


def _decoded_inputs(plan: Plan) -> Iterator[Inputs]:
    """What fine-tuning reads, fold by fold."""
    from omegaconf import OmegaConf

    for fold in plan.folds:
        run = next(run for run in plan.finetuning if run.fold == fold.number)
        place = None if run.fold is None else (str(run.stimulus), run.folds, run.fold)
        yield inputs_of(OmegaConf.create(dict(run.recipe)), place)


def _neurons(plan: Plan) -> dict[str, Any]:
    comparison, fold = plan.comparison, plan.folds[0]
    finetune = compose("finetune", comparison.task, comparison.finetune)
    return {
        "scored": len(fold.table),
        "predictable": len(make_diet(fold.table, "predictable")),
        "decoded_from": int(diet_of(finetune, fold.decoding).members_of(fold.decoding).sum()),
        "decode_fraction": comparison.decode_fraction,
        "pretrained_on": plan.diets,
        "pretrained_on_recordings": list(plan.pretrained_on),
        "decoded_recordings": list(plan.decoded),
    }
