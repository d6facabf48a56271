"""One run of a comparison: what it reads, and what comes of it."""

from __future__ import annotations

import time

from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.compare.record import HeldOut, Outcome, Run
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.splits import recorded_split, repeat_fold
from poyo_ssl_plugin.plain import Values
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.training import (
    FinetuneRecipe,
    Inputs,
    PretrainRecipe,
    decoding_of,
    finetune,
    parse_recipe,
    pretrain,
    read_checkpoint,
)
from poyo_ssl_plugin.training.recipe import Recipe


def perform(run: Run) -> Outcome:
    """Do a run, or go on with it."""
    began = time.monotonic()
    config = recipe_of(run)
    recipe = parse_recipe(PretrainRecipe if run.stage == "pretrain" else FinetuneRecipe, config)
    inputs = inputs_of(recipe, run.held_out)
    tested: Values = {}
    if not isinstance(recipe, FinetuneRecipe):
        result = pretrain(config, inputs)
    else:
        assert run.seed is not None
        result = finetune(config, inputs, seed=run.seed)
        test = decoding_of(recipe).test_result(result.predictions)
        tested = {"value": test.value, "n_test": test.n_test, "trials": test.trials, "trial_names": test.names}
    steps, windows = _shown(recipe, run)
    seconds = round(time.monotonic() - began, 1)
    metrics, initial = _rounded(result.metrics), _rounded(result.initial)
    return Outcome(metrics, initial, result.leaks, seconds, steps, windows, **tested)


def recipe_of(run: Run) -> DictConfig:
    """The recipe of a run, with its folder."""
    config = OmegaConf.create(dict(run.recipe))
    config.out_dir = str(run.folder)
    return config


def inputs_of(recipe: Recipe, held_out: HeldOut | None) -> Inputs:
    """What a run reads, by its recipe and what it holds out alone."""
    dataset = Recordings(recipe.data.folder, recipe.data.recordings)
    if held_out is None:
        split = recorded_split(dataset)
    else:
        stimulus, folds, number, contiguous = held_out
        split = repeat_fold(dataset, stimulus, number, folds, contiguous=contiguous)
    return Inputs(dataset, PredictabilityTable.load(recipe.diet["table"]), split)


def inputs_of_run(run: Run) -> Inputs:
    """What a fine-tuning run reads."""
    return inputs_of(parse_recipe(FinetuneRecipe, recipe_of(run)), run.held_out)


def _shown(recipe: Recipe, run: Run) -> tuple[int, int]:
    """Steps trained, and windows shown in them."""
    steps = int(read_checkpoint(run.checkpoint)["global_step"])
    options = recipe.trainer
    devices = options.devices if isinstance(options.devices, int) else 1
    return steps, steps * recipe.data.batch_size * max(devices, 1) * options.num_nodes


def _rounded(metrics: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in sorted(metrics.items()) if value == value}
