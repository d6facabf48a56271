"""One run, one folder, one record: ``run.json`` says what was asked, how far it is, and what came of it.

Beside it are ``recipe.yaml``, ``csv/metrics.csv``, and ``checkpoints`` with the state to go on from.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf

from poyo_ssl_plugin.configuration import flat, without_later
from poyo_ssl_plugin.distributed import is_main_process
from poyo_ssl_plugin.errors import DeviceError, RecipeError
from poyo_ssl_plugin.files import RECORD, atomic_path, only_run_in, write_json
from poyo_ssl_plugin.models import LoadReport, read_checkpoint
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.training.recipe import Recipe

logger = logging.getLogger(__name__)

_ABSENT = object()

# Keys of a recipe that change neither a run nor its result.
_FREE = {"resume", "out_dir", "seeds", "data.num_workers", "data.timeout"}
# Keys that may differ when a run that was stopped goes on: the same content in another place.
_MOVED = {"data.root", "diet.table", "init_from"}
# Keys of the trainer that change the result, so that a finished run is not taken for another.
_TRAINER = {"max_steps", "max_epochs", "gradient_clip_val", "precision", "val_every_n_steps", "on_nonfinite"}
_TRAINER |= {"compile", "accumulate_grad_batches", "limit_val_batches"}


@dataclass
class RunResult:
    """What came of a run.

    Attributes:
        out_dir: Its folder.
        checkpoint: Its last checkpoint.
        metrics: Last value of everything that was measured, by name.
        initial: Measured before the first step.
        predictions: One row per tested moment, of a fine-tuning run.
        loaded: Which weights the run started from.
        task: What was decoded, of a fine-tuning run.
        leaks: What of the test was seen before, and whether that was allowed.

    Example:
        >>> folder = Path("runs/pretrain")
        >>> result = RunResult(folder, last_checkpoint(folder), {"valid/masked": 0.7}, initial={"valid/masked": 1.0})
        >>> result.checkpoint.as_posix()
        'runs/pretrain/checkpoints/last.ckpt'
    """

    out_dir: Path
    checkpoint: Path
    metrics: dict[str, float]
    initial: dict[str, float] = field(default_factory=dict)
    predictions: list[Values] = field(default_factory=list)
    loaded: LoadReport | None = None
    task: str = ""
    leaks: Values = field(default_factory=dict)


@dataclass
class RunRecord:
    """A run and its folder; all but the folder is the content of ``run.json``.

    Attributes:
        out_dir: The folder.
        recipe: Dotted keys and values of the recipe, and the seed, that make the run what it is.
        state: ``"begun"``, or ``"finished"`` with a result.
        result: What came of it.
        speed: How fast it trained: ``training_seconds``, ``windows_per_second``, ``gflop_per_window`` and
            ``flop_utilisation``, as far as they are known.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.training import FinetuneRecipe, parse_recipe
        >>> folder = tempfile.mkdtemp()
        >>> recipe = parse_recipe(FinetuneRecipe, compose_recipe("finetune", "scratch", [f"out_dir={folder}"]))
        >>> RunRecord.of(recipe, seed=1).write()
        >>> made = RunRecord.read(folder).recipe
        >>> made["seed"], made["model.dim"], "out_dir" in made  # where it is written does not make a run another
        (1, 64, False)
    """

    out_dir: Path
    recipe: Values
    state: Literal["begun", "finished"] = "begun"
    result: RunResult | None = None
    speed: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, recipe: Recipe, *, seed: int | None = None) -> RunRecord:
        """The record of a run that is about to begin."""
        keys = without_later(flat(recipe.content))
        kept = {f"trainer.{name}" for name in _TRAINER}
        made = {k: v for k, v in keys.items() if k in kept or not (k in _FREE or k.startswith("trainer."))}
        return cls(Path(recipe.out_dir), {**made, **({} if seed is None else {"seed": seed})})

    @classmethod
    def read(cls, out_dir: str | Path) -> RunRecord | None:
        """The record in a folder; ``None`` if there is none that can be read."""
        out_dir = Path(out_dir)
        try:
            content = _from_json(json.loads((out_dir / RECORD).read_text(encoding="utf-8")))
            result = content["result"]
            if result is not None:
                loaded = result["loaded"] and LoadReport(**result["loaded"])
                result = RunResult(out_dir, last_checkpoint(out_dir), **{**result, "loaded": loaded})
            return cls(out_dir, content["recipe"], content["state"], result, content.get("speed", {}))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def last(self) -> Path:
        """Its last checkpoint."""
        return last_checkpoint(self.out_dir)

    def write(self) -> None:
        """Write the record in one step; one process does it for all."""
        content = asdict(self)
        del content["out_dir"]
        if self.result is not None:
            del content["result"]["out_dir"], content["result"]["checkpoint"]
        if is_main_process():
            write_json(self.out_dir / RECORD, _to_json({"format": 2, **content}))

    def finish(self, metrics: dict[str, float], **further: Any) -> RunResult:
        """Write that the run is finished, and what came of it, in the fields of :class:`RunResult`."""
        self.state, self.result = "finished", RunResult(self.out_dir, self.last, metrics, **further)
        self.write()
        return self.result

    def finished(self, *, resume: bool) -> RunResult | None:
        """The result of an earlier run of this recipe in its folder, if it is to be resumed and was finished.

        Raises:
            RecipeError: If the run that is to be resumed is of another recipe.
        """
        if not resume or not self.last.exists():
            return None
        earlier, made = RunRecord.read(self.out_dir), json.loads(json.dumps(self.recipe))
        if earlier is not None and earlier.state == "finished" and earlier.recipe == made:
            logger.info("%s: finished already", self.out_dir)
            return earlier.result
        _refuse_other_recipe(self.recipe, read_checkpoint(self.last)["hyper_parameters"].get("recipe", {}), self.last)
        return None

    @contextmanager
    def own_folder(self, recipe: Recipe) -> Iterator[None]:
        """Have the folder to oneself, and write the recipe and the record into it.

        Raises:
            OutputError: If another run goes on there.
            RecipeError: If the folder holds a run that is not to be resumed.
        """
        if not is_main_process():
            # One process does it for all.
            yield
            return
        with only_run_in(self.out_dir):
            if not recipe.resume and self.last.exists():
                raise RecipeError(
                    f"{self.out_dir} holds a run already: pass resume=true to continue it, or another out_dir=..."
                )
            with atomic_path(self.out_dir / "recipe.yaml") as temporary:
                OmegaConf.save(OmegaConf.create(recipe.content), temporary)
            self.write()
            yield


def last_checkpoint(out_dir: str | Path) -> Path:
    """Where a run keeps its last state."""
    return Path(out_dir) / "checkpoints" / "last.ckpt"


@contextmanager
def hardware_errors() -> Iterator[None]:
    """Say what to do about a device that is too small or missing.

    Raises:
        DeviceError: Instead of torch's and Lightning's own errors.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"the GPU ran out of memory ({'. '.join(str(error).split('. ')[:2])}); lower data.batch_size or "
            "the neurons of a window (data.unit_dropout), take trainer.precision=bf16-mixed or a smaller model=..., "
            "then start again with resume=true"
        ) from error
    except MisconfigurationException as error:
        said = " ".join(str(error).split())
        if not any(word in said.lower() for word in ("accelerator", "device", "gpu", "cuda", "backend")):
            raise
        raise DeviceError(f"{said} Set trainer.accelerator=cpu, or auto, to use what is there") from error


def _refuse_other_recipe(now: ReadOnlyValues, earlier: ReadOnlyValues, source: str | Path) -> None:
    """Refuse to continue a run with a recipe that changes what it was.

    Raises:
        RecipeError: Naming the first such key.
    """
    # A model that starts from a checkpoint is that of the checkpoint.
    free = ("trainer.",) if now.get("init_from") is None else ("trainer.", "model.")
    for key in sorted(now):
        before = _value(earlier, key)
        if key not in _FREE | _MOVED and not key.startswith(free) and before not in (_ABSENT, now[key]):
            raise RecipeError(
                f"{source} was written with {key}={before}, not {now[key]}: a run cannot change it halfway; "
                "give the earlier value, or another out_dir=..."
            )


def _value(recipe: object, key: str) -> object:
    """The value that a recipe gives to a dotted key, if it does."""
    for part in key.split("."):
        recipe = recipe.get(part, _ABSENT) if isinstance(recipe, Mapping) else _ABSENT
    return _ABSENT if isinstance(recipe, Mapping) else recipe


def _to_json(value: object) -> object:
    """Numbers that JSON has no word for as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float:{value}"
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, list | tuple) else value


def _from_json(value: object) -> Any:
    if isinstance(value, str) and value.startswith("float:"):
        return float(value.removeprefix("float:"))
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    return [_from_json(item) for item in value] if isinstance(value, list) else value
