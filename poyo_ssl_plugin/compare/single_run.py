"""Single runs as the command line starts them: run, draw, and write down what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.compare import figures
from poyo_ssl_plugin.compare.metrics import decoded_row, reference_lines
from poyo_ssl_plugin.compare.record import split_of
from poyo_ssl_plugin.compare.references import run_baselines
from poyo_ssl_plugin.compare.run import inputs_of
from poyo_ssl_plugin.compare.statistics import binomial_interval, estimate
from poyo_ssl_plugin.data import MOVIE_FRAMES_TASK, get_task
from poyo_ssl_plugin.distributed import end_unless_main_process
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.experiments.frames import frame_evaluation, run_frame_finetuning
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.predictability import make_diet
from poyo_ssl_plugin.provenance import git_revision, versions
from poyo_ssl_plugin.recordings import TRACES
from poyo_ssl_plugin.training import Inputs, RunResult, open_finetuned, read_checkpoint
from poyo_ssl_plugin.training import evaluate as evaluate_once
from poyo_ssl_plugin.training import finetune as finetune_once
from poyo_ssl_plugin.training import pretrain as pretrain_once
from poyo_ssl_plugin.training.frames import reconstructs_frames
from poyo_ssl_plugin.training.recipe import recorded_recipe
from poyo_ssl_plugin.training.session import run_session
from poyo_ssl_plugin.training.trainer import make_tester, numbers


def run_pretraining(config: DictConfig) -> dict[str, Any]:
    """Pretrain, draw the curves, and write ``results.json``; returns its content."""
    result = pretrain_once(config)
    end_unless_main_process()
    metrics = ["train/masked", "valid/effective_rank", "valid/latent_std"]
    figures.training_curves({"pretraining": result.out_dir}, result.out_dir / "curves.png", metrics=metrics)
    units = read_checkpoint(result.checkpoint)["hyper_parameters"]["trained_on"]["units"]
    summary = {
        "format": 1,
        "checkpoint": str(result.checkpoint),
        "initial": _finite(result.initial),
        "metrics": _finite(result.metrics),
        "diet": f"{config.diet.rule}: {sum(map(len, units.values()))} units of {len(units)} recordings",
        "loaded": result.loaded.summary() if result.loaded else None,
        "leaks": result.leaks,
        **_made(config),
    }
    write_json(result.out_dir / "results.json", summary)
    return summary


def run_finetuning(config: DictConfig, *, stage: Callable[[str, int], Any] | None = None) -> dict[str, Any]:
    """Fine-tune with every seed, test, compare with baselines, draw, and write ``results.json``."""
    if config.task == MOVIE_FRAMES_TASK.name:
        return run_frame_finetuning(config, stage=stage)
    seeds = list(config.seeds)
    if not seeds:
        raise RecipeError("seeds is empty: give at least one, seeds=[0]")
    out_dir = Path(config.out_dir)
    results: dict[int, RunResult] = {}
    progress = stage("fine-tuning", len(seeds)) if stage else (lambda items, n: items)
    for seed in progress(iter(seeds), len(seeds)):
        # The bar over seeds takes the place of Lightning's own, one per run.
        change = {"out_dir": str(out_dir / f"seed{seed}"), "trainer": {"progress": False}}
        of_seed = OmegaConf.merge(config, change)
        assert isinstance(of_seed, DictConfig)
        results[seed] = finetune_once(of_seed, seed=seed)
    end_unless_main_process()
    task = get_task(config.task)
    inputs = Inputs.from_recipe(config)
    diet = make_diet(inputs.table, config.diet.rule, **_rule_options(config))
    arm = "scratch" if config.init_from is None else "pretrained"
    accuracies = [result.metrics["test/accuracy"] for result in results.values()]
    value = estimate(accuracies, bounds=(0.0, 1.0))
    baselines = run_baselines(
        inputs.dataset,
        diet,
        task,
        inputs.split,
        field=inputs.table.provenance.get("field", TRACES),
        label_fraction=config.label_fraction,
    )
    summary = {
        "format": 2,
        "metric": "accuracy on held-out trials",
        "task": task.name,
        "chance": 1 / task.n_classes,
        "arms": {
            arm: {
                "metric": "accuracy",
                "runs": [
                    {"seed": seed, "value": r.metrics["test/accuracy"], "n_test": len(r.predictions)}
                    for seed, r in results.items()
                ],
                "mean": value.mean,
                "ci95": value.ci95,
            }
        },
        "baselines": {name: decoded_row(decoded) for name, decoded in baselines.items()},
        "diet": f"{diet.name}: {diet.summary(inputs.dataset.recording_ids)}",
        "seeds": seeds,
        "metrics": {str(seed): _finite(result.metrics) for seed, result in results.items()},
        "predictions": {str(seed): result.predictions for seed, result in results.items()},
        "leaks": {str(seed): result.leaks for seed, result in results.items()},
        "loaded": next(iter(results.values())).loaded.summary() if arm == "pretrained" else None,  # type: ignore[union-attr]
        **_made(config),
    }
    write_json(out_dir / "results.json", summary)
    figures.arm_bars(
        {arm: (value, accuracies)},
        reference_lines(summary),
        out_dir / "accuracy.png",
        title=figures.in_words(task.name),
        label="accuracy",
    )
    figures.training_curves(
        {f"{arm}/{seed}": result.out_dir for seed, result in results.items()},
        out_dir / "curves.png",
        metrics=["train/loss", "valid/accuracy"],
    )
    return summary


def run_evaluation(checkpoint: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Test a fine-tuned checkpoint; returns what ``results.json`` would hold of it.

    What a comparison trained is tested on the fold that it held out.
    """
    changes = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise RecipeError(f"{override!r} is not of the form key=value")
        changes[key] = OmegaConf.create(f"value: {value}").value
    content = read_checkpoint(checkpoint)
    fold = split_of(Path(checkpoint).resolve().parents[1])
    if reconstructs_frames(content):
        if fold is not None:
            raise RecipeError(f"{checkpoint} was tested on a fold of repeats, which evaluate cannot do with frames yet")
        return frame_evaluation(checkpoint, changes)
    result = evaluate_once(checkpoint, changes) if fold is None else _evaluate_fold(checkpoint, changes, fold)
    n, correct = len(result.predictions), sum(r["label"] == r["prediction"] for r in result.predictions)
    accuracy = result.metrics["test/accuracy"]
    return {
        "format": 1,
        "metric": "accuracy on held-out trials",
        "task": result.task,
        "chance": 1 / get_task(result.task).n_classes,
        "arms": {
            "checkpoint": {
                "metric": "accuracy",
                "runs": [{"value": accuracy, "n_test": n}],
                "mean": accuracy,
                "ci95": None,
                "trials_ci95": list(binomial_interval(correct, n)),
            }
        },
        "baselines": {},
        "checkpoint": str(checkpoint),
        "leaks": result.leaks,
        "predictions": result.predictions,
        "versions": versions(),
        "git": git_revision(),
    }


@run_session
def _evaluate_fold(checkpoint: str | Path, changes: dict[str, Any], fold: tuple[str, int, int]) -> RunResult:
    """Test a checkpoint on the fold that its run held out."""
    config = recorded_recipe(read_checkpoint(checkpoint), changes, source=checkpoint)
    run = open_finetuned(checkpoint, changes, inputs_of(config, fold))
    trainer = make_tester(run.config)
    trainer.test(run.module, run.data, verbose=False)
    place = Path(checkpoint)
    return RunResult(
        place.parent,
        place,
        numbers(trainer),
        predictions=run.module.predictions,
        task=run.module.task.name,
        leaks=run.leaks,
    )


def _rule_options(config: DictConfig) -> dict[str, Any]:
    options = OmegaConf.to_container(config.diet)
    assert isinstance(options, dict)
    return {str(key): value for key, value in options.items() if key not in ("rule", "table")}


def _made(config: DictConfig) -> dict[str, Any]:
    return {"recipe": OmegaConf.to_container(config), "versions": versions(), "git": git_revision()}


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in sorted(metrics.items()) if value == value and abs(value) != float("inf")}
