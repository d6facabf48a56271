"""Runs: from a recipe to a trained model and what was measured of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import lightning as L
from omegaconf import DictConfig

from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models import (
    LoadReport,
    build_model,
    initialise,
    instantiate,
    model_state,
    model_to_start,
    read_checkpoint,
)
from poyo_ssl_plugin.models.vocabulary import Source
from poyo_ssl_plugin.plain import ReadOnlyValues, State, Values
from poyo_ssl_plugin.training.data import FinetuningData, PretrainingData
from poyo_ssl_plugin.training.decoding import Decoding, decoding_of
from poyo_ssl_plugin.training.identify_neurons import identify
from poyo_ssl_plugin.training.inputs import Inputs, auxiliary_task
from poyo_ssl_plugin.training.leaks import check_scoring, check_test_time, leaks_of, record_of
from poyo_ssl_plugin.training.module import TransferModule
from poyo_ssl_plugin.training.parsing import parse_recipe
from poyo_ssl_plugin.training.pretraining import Pretraining
from poyo_ssl_plugin.training.prototypes import start_from_class_means
from poyo_ssl_plugin.training.recipe import FinetuneRecipe, PretrainRecipe, must_fit, recorded_recipe
from poyo_ssl_plugin.training.run_folder import RunRecord, RunResult, hardware_errors
from poyo_ssl_plugin.training.trainer import fit, make_tester, make_trainer, numbers, quiet_lightning, validate

logger = logging.getLogger(__name__)


def pretrain(config: DictConfig, inputs: Inputs | None = None) -> RunResult:
    """Run a pretraining recipe.

    Args:
        config: A composed recipe, see :func:`~poyo_ssl_plugin.configuration.compose_recipe`.
        inputs: What to read, if not what the recipe says.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> folder, traces = tempfile.mkdtemp(), np.random.default_rng(0).normal(size=(1200, 6))  # two minutes of noise
        >>> _ = save_recording(recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0), folder)
        >>> result = pretrain(compose_recipe("pretrain", None, [
        ...     f"data.root={folder}", f"out_dir={folder}/run", "diet=all", "aux.weight=0", "model=tiny",
        ...     "data.batch_size=8", "trainer.max_steps=1", "trainer.progress=false", "trainer.tensorboard=false",
        ... ]))
        >>> result.checkpoint.name, sorted(path.name for path in result.out_dir.glob("[a-z]*.*"))
        ('last.ckpt', ['recipe.yaml', 'run.json'])
    """
    recipe = parse_recipe(PretrainRecipe, config)
    record = RunRecord.of(recipe)
    if (finished := record.finished(resume=recipe.resume)) is not None:
        return finished
    recipe = recipe.with_values(model=model_to_start(recipe.model, recipe.init_from))
    inputs = inputs or Inputs.from_recipe(recipe)
    L.seed_everything(recipe.seed, workers=True, verbose=False)
    task, diet, options = auxiliary_task(recipe, inputs), recipe.make_diet(inputs.table), recipe.data.of_windows()
    data = PretrainingData(inputs.dataset, inputs.table, diet, inputs.split, task=task, seed=recipe.seed, **options)
    model = build_model(recipe.model, {task.name: task.n_classes} if task else {})
    objective = instantiate(recipe.ssl, "ssl")
    loaded = initialise(model, data.unit_ids, data.session_ids, init_from=recipe.init_from)
    data.attach(model)
    leaks = {"scoring": check_scoring(inputs.table, data, allow=recipe.allow_leak)}
    seen = record_of(recipe, model, data, data.train_times, inputs.skipped)
    module = Pretraining(
        model,
        objective,
        auxiliary=task.name if task else None,
        auxiliary_weight=recipe.aux.weight,
        hyper_parameters={**seen, "leaks": leaks},
        optimizer=recipe.optim.optimizer,
        schedule=recipe.optim.schedule,
    )
    with hardware_errors(), quiet_lightning():
        trainer = make_trainer(recipe.trainer, record, monitor="valid/loss", mode="min")
        with record.own_folder(recipe):
            initial = validate(trainer, module, data)
            metrics = fit(trainer, module, data)
            metrics |= validate(trainer, module, data)
            return record.finish(metrics, initial=initial, loaded=loaded, leaks=leaks)


@dataclass
class Prepared:
    """A fine-tuning run before its first step, or a finished one opened again.

    Attributes:
        recipe: What is asked for; its ``content`` is what the checkpoint keeps.
        decoding: What is decoded.
        module: The Lightning module; ``module.model`` is the model, its vocabularies initialised.
        data: The data module, attached to the model.
        loaded: Which weights it starts from.
        leaks: What of the test was seen before, and whether that was allowed.
    """

    recipe: FinetuneRecipe
    decoding: Decoding
    module: TransferModule
    data: FinetuningData
    loaded: LoadReport | None = None
    leaks: Values = field(default_factory=dict)


def prepare_finetuning(config: DictConfig, inputs: Inputs | None = None, *, seed: int = 0) -> Prepared:
    """Everything of a fine-tuning run but the training; arguments as :func:`finetune`.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> folder, traces = tempfile.mkdtemp(), np.random.default_rng(0).normal(size=(1200, 6))
        >>> turns = {"start": np.arange(40) * 3, "end": np.arange(40) * 3 + 2, "turn": ["left", "right"] * 20}
        >>> recording = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, trials=turns)
        >>> _ = save_recording(recording, folder)
        >>> run = prepare_finetuning(compose_recipe("finetune", "scratch", [
        ...     f"data.root={folder}", "diet=all", "model=tiny", "task={name: turn, source: trials, label: turn}",
        ... ]))
        >>> list(run.module.model.unit_emb.vocab)[:2], len(run.data.trials("test")["mouse1"])
        (['NA', 'mouse1/0'], 8)
    """
    return _prepare(parse_recipe(FinetuneRecipe, config), inputs, seed=seed)


def _prepare(recipe: FinetuneRecipe, inputs: Inputs | None, *, seed: int) -> Prepared:
    if recipe.content.get("init_from") == "???":
        raise RecipeError(
            "init_from is not set: give init_from=..., a pretrained checkpoint; init_from=null trains from scratch"
        )
    recipe = recipe.with_values(model=model_to_start(recipe.model, recipe.init_from))
    inputs = inputs or Inputs.from_recipe(recipe)
    decoding = decoding_of(recipe, inputs)
    recipe = recipe.with_values(task=decoding.recorded())
    L.seed_everything(seed, workers=True, verbose=False)
    data = decoding.data(inputs, seed=seed)
    if seed == recipe.seeds[0]:
        logger.info("diet %s (%s)", data.diet.summary(inputs.dataset.recording_ids), data.diet.name)
    model = decoding.model(recipe.model)
    data.attach(model)
    source = cast("Source", recipe.vocabulary)  # checked where it is used
    loaded = initialise(model, data.unit_ids, data.session_ids, init_from=recipe.init_from, vocabulary=source)
    record = record_of(recipe, model, data, data.split["train"], inputs.skipped)
    record |= {"seed": seed, "leaks": leaks_of(recipe, inputs.table, data)}
    if recipe.init_from is not None:
        record["pretrained_on"] = read_checkpoint(recipe.init_from)["hyper_parameters"].get("trained_on")
    identified = identify(model, recipe, inputs, data, seed=seed)
    guessed = start_from_class_means(model, data, decoding.task.name, recipe.self_training)
    record["unlabelled"] = {"identified": identified, "guessed_trials": guessed}
    record["leaks"]["unlabelled"] = record["unlabelled"]
    module = decoding.module(model, record)
    return Prepared(recipe, decoding, module, data, loaded, record["leaks"])


def finetune(config: DictConfig, inputs: Inputs | None = None, *, seed: int = 0) -> RunResult:
    """Run a fine-tuning recipe with one seed, and test it.

    Args:
        config: A composed recipe.
        inputs: What to read, if not what the recipe says.
        seed: Seed of the weights, the windows and the dropout.

    Raises:
        PoyoSSLError: If the recipe or what it names is not as it must be.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> folder, traces = tempfile.mkdtemp(), np.random.default_rng(0).normal(size=(1200, 6))
        >>> turns = {"start": np.arange(40) * 3, "end": np.arange(40) * 3 + 2, "turn": ["left", "right"] * 20}
        >>> recording = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, trials=turns)
        >>> _ = save_recording(recording, folder)
        >>> result = finetune(compose_recipe("finetune", "scratch", [
        ...     f"data.root={folder}", f"out_dir={folder}/run", "diet=all", "model=tiny", "data.batch_size=8",
        ...     "task={name: turn, source: trials, label: turn}", "trainer.max_steps=1", "trainer.progress=false",
        ...     "trainer.tensorboard=false",
        ... ]))
        >>> len(result.predictions), sorted(result.predictions[0])  # one row per tested trial
        (8, ['label', 'prediction', 'recording_id', 'time'])
    """
    recipe = parse_recipe(FinetuneRecipe, config)
    record = RunRecord.of(recipe, seed=seed)
    if (finished := record.finished(resume=recipe.resume)) is not None:
        return finished
    run = _prepare(recipe, inputs, seed=seed)
    with hardware_errors(), quiet_lightning():
        trainer = make_trainer(run.recipe.trainer, record, monitor=f"valid/{run.decoding.metric.key}", mode="max")
        with record.own_folder(run.recipe):
            metrics = fit(trainer, run.module, run.data)
            trainer.test(run.module, run.data, verbose=False)
            return record.finish(
                metrics | numbers(trainer),
                predictions=run.module.predictions,
                loaded=run.loaded,
                task=run.decoding.task.name,
                leaks=run.leaks,
            )


def open_finetuned(
    checkpoint: str | Path, overrides: ReadOnlyValues | None = None, inputs: Inputs | None = None
) -> Prepared:
    """Open a fine-tuned checkpoint with its data.

    Args:
        checkpoint: A checkpoint of a fine-tuning run.
        overrides: Dotted keys of its recipe to change, such as ``{"data.root": "other/folder"}``.
        inputs: What to read, if not what its recipe says.

    Raises:
        CheckpointError: If it is not such a checkpoint.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> folder, traces = tempfile.mkdtemp(), np.random.default_rng(0).normal(size=(1200, 6))
        >>> turns = {"start": np.arange(40) * 3, "end": np.arange(40) * 3 + 2, "turn": ["left", "right"] * 20}
        >>> recording = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, trials=turns)
        >>> _ = save_recording(recording, folder)
        >>> result = finetune(compose_recipe("finetune", "scratch", [
        ...     f"data.root={folder}", f"out_dir={folder}/run", "diet=all", "model=tiny", "data.batch_size=8",
        ...     "task={name: turn, source: trials, label: turn}", "trainer.max_steps=1", "trainer.progress=false",
        ...     "trainer.tensorboard=false",
        ... ]))
        >>> run = open_finetuned(result.checkpoint)
        >>> run.data.task.name, list(run.module.model.session_emb.vocab)
        ('turn', ['NA', 'mouse1'])
    """
    content = read_checkpoint(checkpoint)
    record = content["hyper_parameters"]
    if "recipe" not in record or "task" not in record["recipe"]:
        raise CheckpointError(f"{checkpoint}: not of a fine-tuning run of this package; evaluate needs one")
    recipe = recorded_recipe(content, overrides, source=checkpoint)
    inputs = inputs or Inputs.from_recipe(recipe)
    decoding = decoding_of(recipe)
    data = decoding.data(inputs, seed=int(record.get("seed", 0)))
    leaks = check_test_time(record, data, allow=recipe.allow_leak)
    model = decoding.model(recipe.model)
    data.attach(model)
    module = decoding.module(model, record)
    with must_fit(checkpoint):
        _load(module, content)
    return Prepared(recipe, decoding, module, data, leaks=leaks)


def _load(module: TransferModule, content: State) -> None:
    """Load a model and what its module learned beside it; a network that only measures is not part of it."""
    learned = {f"model.{name}": value for name, value in model_state(content).items()}
    learned |= {name: value for name, value in content["state_dict"].items() if name in module.state_dict()}
    missing, unexpected = module.load_state_dict(learned, strict=False)
    misfit = [name for name in (*missing, *unexpected) if not name.startswith("loss.")]
    if misfit:
        raise KeyError(misfit[0])


def evaluate(
    checkpoint: str | Path, overrides: ReadOnlyValues | None = None, inputs: Inputs | None = None
) -> RunResult:
    """Test a fine-tuned checkpoint on the test split of its recordings; arguments as :func:`open_finetuned`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
        >>> folder, traces = tempfile.mkdtemp(), np.random.default_rng(0).normal(size=(1200, 6))
        >>> turns = {"start": np.arange(40) * 3, "end": np.arange(40) * 3 + 2, "turn": ["left", "right"] * 20}
        >>> recording = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, trials=turns)
        >>> _ = save_recording(recording, folder)
        >>> result = finetune(compose_recipe("finetune", "scratch", [
        ...     f"data.root={folder}", f"out_dir={folder}/run", "diet=all", "model=tiny", "data.batch_size=8",
        ...     "task={name: turn, source: trials, label: turn}", "trainer.max_steps=1", "trainer.progress=false",
        ...     "trainer.tensorboard=false",
        ... ]))
        >>> evaluate(result.checkpoint).predictions == result.predictions
        True
    """
    run = open_finetuned(checkpoint, overrides, inputs)
    with hardware_errors(), quiet_lightning():
        trainer = make_tester(run.recipe.trainer)
        trainer.test(run.module, run.data, verbose=False)
    return RunResult(
        Path(checkpoint).parent,
        Path(checkpoint),
        numbers(trainer),
        predictions=run.module.predictions,
        task=run.decoding.task.name,
        leaks=run.leaks,
    )
