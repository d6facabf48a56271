"""Arms of pretraining against from scratch: the same neurons, the same budget, the same seeds, the same trials."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from poyo_ssl_plugin.compare.executors import only_warnings, run_all
from poyo_ssl_plugin.compare.perform import inputs_of_run, perform
from poyo_ssl_plugin.compare.plan import Plan, compose, make_plan
from poyo_ssl_plugin.compare.progress import Track
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.references import reference_rows
from poyo_ssl_plugin.compare.results import ComparisonSummary, TestedDecoder
from poyo_ssl_plugin.compare.summary import summarise
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.training import FinetuneRecipe, parse_recipe

Stage = Callable[[str, int], Track]


@dataclass(frozen=True)
class ComparisonResult:
    """What came of a comparison.

    Attributes:
        summary: What it says, the content of ``results.json``.
        pretraining: Folders of the pretraining runs, by arm, fold and, if there are several, seed.
        finetuning: Folders of the fine-tuning runs, by arm, fold and seed.
        plan: What was done.
    """

    summary: ComparisonSummary
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
    baselines = _baselines(plan)
    summary = summarise(plan, pretrained, finetuned, baselines, time.monotonic() - began)
    before, after = ({run.name: run.folder for run in runs} for runs in (plan.pretraining, plan.finetuning))
    return ComparisonResult(summary, before, after, plan)


def _baselines(plan: Plan) -> dict[str, TestedDecoder]:
    """What simple decoders reach on what fine-tuning reads, fold by fold."""
    comparison = plan.comparison
    config = compose("finetune", comparison.task, comparison.finetune)
    runs = [next(run for run in plan.finetuning if run.fold == fold.number) for fold in plan.folds]
    of_run = runs[0].recipe
    config.data.root, config.diet.table = of_run["data"]["root"], of_run["diet"]["table"]
    config.data.field = of_run["data"]["field"]
    with only_warnings():
        return reference_rows(parse_recipe(FinetuneRecipe, config), map(inputs_of_run, runs))
