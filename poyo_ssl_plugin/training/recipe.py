"""Recipes as typed objects: what pretraining and fine-tuning are asked for, every value checked at the door."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from poyo_ssl_plugin.data import Task, get_task
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models.architecture import refuse_unknown_classes
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, make_diet
from poyo_ssl_plugin.training.activity import Activity
from poyo_ssl_plugin.training.parsing import fraction, one_of, parse_recipe, positive, whole

_ABSENT = object()
_Kind = TypeVar("_Kind", bound="Recipe")


def _seeds(key: str, value: object) -> None:
    seeds = value if isinstance(value, list) else []
    if not all(type(seed) is int and seed >= 0 for seed in seeds) or not 0 < len(set(seeds)) == len(seeds):
        raise RecipeError(
            f"{key} must be different whole numbers from 0 on, at least one, as in seeds=[0,1,2], not {value}"
        )


def _lr(key: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise RecipeError(f"{key} holds other keys; change one of them, {key}.lr=... or {key}.name=...")
    positive(f"{key}.lr", value.get("lr"))


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Recordings, and the windows cut from them; the comments in ``recipes/data/windows.yaml`` say what keys mean."""

    root: str | None = None
    recordings: list[str] | None = None
    on_error: str = "stop"
    timeout: float | None = None
    split: str = "recorded"
    window_length: Annotated[float, positive]
    batch_size: Annotated[int, whole(1)]
    num_workers: Annotated[int, whole(0)] = 0
    field: str | None = None
    bin_width: float = 0.1
    standardize: bool = True
    unit_dropout: Values | None

    @property
    def folder(self) -> str:
        """The folder of the recordings.

        Raises:
            RecipeError: If none is given.
        """
        if self.root is None:
            raise RecipeError("data.root is not set: give data.root=..., the folder of the recordings")
        return self.root

    def of_windows(self) -> Values:
        """What windows are like, as options of :class:`~poyo_ssl_plugin.training.DietData`."""
        names = ("window_length", "batch_size", "num_workers", "standardize", "unit_dropout")
        return {name: getattr(self, name) for name in names} | {"activity": Activity(self.field, self.bin_width)}


@dataclass(frozen=True, kw_only=True)
class PretrainDataRecipe(DataRecipe):
    """The same for pretraining, which may keep to a stimulus or open its diet step by step."""

    stimulus: str | None = None
    curriculum: str | None = None
    curriculum_start: float = 0.2
    curriculum_fraction: float = 0.7

    def of_windows(self) -> Values:
        names = ("stimulus", "curriculum", "curriculum_start", "curriculum_fraction")
        return super().of_windows() | {name: getattr(self, name) for name in names}


@dataclass(frozen=True, kw_only=True)
class TrainerRecipe:
    """How long a run trains, on what, and what it logs; meanings in ``recipes/trainer/default.yaml``."""

    max_steps: Annotated[int, whole(-1)]
    max_epochs: Annotated[int | None, whole(0)] = None
    val_every_n_steps: Annotated[int, whole(1)]
    limit_val_batches: int | float = 1.0
    save_every_n_steps: Annotated[int | None, whole(1)] = None
    accelerator: str = "auto"
    devices: Any = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str | int = "32-true"
    accumulate_grad_batches: Annotated[int, whole(1)] = 1
    compile: bool | str = False
    gradient_clip_val: float | None
    on_nonfinite: Annotated[str, one_of("stop", "skip")] = "stop"
    deterministic: bool | str = False
    threads: Annotated[int | None, whole(0)] = None
    log_every_n_steps: Annotated[int, whole(0)] = 20
    trajectory_every_n_steps: int | None = None
    tensorboard: bool = True
    wandb: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        if self.max_steps == -1 and self.max_epochs is None:
            raise RecipeError("trainer.max_steps=-1 trains by trainer.max_epochs alone: give trainer.max_epochs=...")


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """Arguments of :func:`~poyo_ssl_plugin.training.optim.make_optimizer` and of the schedule."""

    optimizer: Annotated[Values, _lr]
    schedule: Values


@dataclass(frozen=True, kw_only=True)
class Auxiliary:
    """The supervised loss beside a pretraining objective: a task, by name or declared, and its weight."""

    task: Any
    weight: float


@dataclass(frozen=True)
class Identification:
    """How new neurons are identified before any label is used.

    Attributes:
        method: ``"none"``, or ``"unlabelled"``: fit the embeddings of units to unlabelled training time.
        steps: Steps of Adam, along a cosine.
        batch_size: Windows per step.
        lr: Learning rate at first.
    """

    method: Annotated[str, one_of("none", "unlabelled")] = "none"
    steps: int = 300
    batch_size: int = 128
    lr: float = 0.02


@dataclass(frozen=True)
class SelfTraining:
    """Labels for the training trials that have none, as the model's own guesses.

    It uses *when* the unlabelled trials of the training split were, not what they showed, and takes classes
    to be equally frequent among them.

    Attributes:
        rounds: Rounds of guessing and averaging; 0 turns it off.
        scale: Sharpness of a guess: softmax of so many times the cosine.
    """

    rounds: int = 0
    scale: float = 20.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What pretraining and fine-tuning share.

    ``content`` is all of it in plain values, keys of one's own too, as run folders and checkpoints keep it.
    Model, diet and objective may be anyone's: their keys go to the class that they name as they are. Defaults are of
    keys that checkpoints from before do not have, and equal those of the recipe files.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> recipe: Recipe = parse_recipe(PretrainRecipe, compose_recipe("pretrain"))
        >>> changed = recipe.with_values(allow_leak=True)
        >>> changed.allow_leak, changed.content["allow_leak"], recipe.allow_leak
        (True, True, False)
    """

    out_dir: str
    model: Values
    diet: Values
    data: DataRecipe
    optim: OptimRecipe
    trainer: TrainerRecipe
    resume: bool = False
    init_from: str | None = None
    allow_leak: bool = False
    content: Values = field(default_factory=dict, repr=False, compare=False)

    def with_values(self: _Kind, **values: Any) -> _Kind:
        """The same recipe with other values, some of which were only known when its recordings were read."""
        return replace(self, **values, content=self.content | values)

    def make_diet(self, table: PredictabilityTable) -> Diet:
        """The diet that is asked for, of a table in memory."""
        return make_diet(table, **{key: value for key, value in self.diet.items() if key != "table"})


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe(Recipe):
    """What a pretraining is asked for; meanings in ``recipes/pretrain.yaml``.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> recipe = parse_recipe(PretrainRecipe, compose_recipe("pretrain", overrides=["data.batch_size=8"]))
        >>> recipe.data.batch_size, recipe.auxiliary_task().name
        (8, 'drifting_gratings')
    """

    data: PretrainDataRecipe
    ssl: Values
    aux: Auxiliary
    seed: Annotated[int, whole(0)] = 0

    def auxiliary_task(self) -> Task | None:
        """The task of the supervised loss, as it is declared, if it has weight.

        Raises:
            RecipeError: If it is no classification.
        """
        if self.aux.task is None or self.aux.weight == 0:
            return None
        task = get_task(self.aux.task)
        if task.kind != "classification":
            raise RecipeError(
                f"aux.task={task.name} is a {task.kind}, and the auxiliary loss needs classes; name a classification, "
                "or give aux.weight=0"
            )
        return task


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe(Recipe):
    """What a fine-tuning is asked for; meanings in ``recipes/finetune.yaml``.

    ``frames``, ``decoder`` and ``frame_loss`` are of the task ``natural_movie_frames``, which reads them itself.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> recipe = parse_recipe(FinetuneRecipe, compose_recipe("finetune", "scratch", ["transfer=probe"]))
        >>> recipe.transfer, recipe.seeds, recipe.init_from
        ('probe', [0, 1, 2], None)
    """

    task: Any
    seeds: Annotated[list[int], _seeds]
    transfer: Annotated[str, one_of("full", "lp_ft", "probe")] = "full"
    probe_fraction: float = 0.3
    identify: Identification = Identification()
    self_training: SelfTraining = SelfTraining()
    label_smoothing: float = 0.0
    regression_loss: Annotated[str, one_of("smooth_l1", "mse", "l1")] = "smooth_l1"
    shuffle_labels: bool = False
    label_fraction: Annotated[float, fraction] = 1.0
    vocabulary: str = "pretrained"
    frames: Values | None = None
    decoder: Values | None = None
    frame_loss: Values | None = None


def recorded_recipe(content: ReadOnlyValues, overrides: ReadOnlyValues | None, *, source: str | Path) -> FinetuneRecipe:
    """The recipe in a checkpoint, some keys changed; it is data and not code, so its classes must be known.

    Raises:
        CheckpointError: If it asks for a class that is not.
        RecipeError: If it has no such key.
    """
    config = OmegaConf.create(content["hyper_parameters"]["recipe"])
    for key, value in (overrides or {}).items():
        earlier = OmegaConf.select(config, key, default=_ABSENT)
        if earlier is _ABSENT:
            raise RecipeError(f"{source}: its recipe has no key {key!r}")
        if isinstance(earlier, DictConfig) and key != "task":
            inner = next(map(str, earlier))
            raise RecipeError(f"{source}: {key!r} holds other keys; change one of them, {key}.{inner}=...")
        OmegaConf.update(config, key, value)
    refuse_unknown_classes(config.model, source=source)
    return parse_recipe(FinetuneRecipe, config)


@contextmanager
def must_fit(source: str | Path) -> Iterator[None]:
    """Say of weights that cannot be loaded into a model where they come from."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{source}: does not fit these recordings ({str(error).splitlines()[0]})") from None
