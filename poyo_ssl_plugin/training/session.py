"""What every run has around it: its folder to itself, its result kept, hardware errors in plain words."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch

from poyo_ssl_plugin.distributed import is_main_process
from poyo_ssl_plugin.errors import DeviceError, RecipeError
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.locks import only_run_in

P = ParamSpec("P")
R = TypeVar("R")

RESULT = "run.json"
# Keys of a recipe that may differ between two starts of one run: they do not change what is learned.
_FREE = {"resume", "out_dir", "seeds", "data.root", "data.num_workers", "data.timeout", "diet.table", "init_from"}
_FREE_GROUPS = ("trainer.",)
# Keys of the trainer that change the result all the same, so that a finished run is not taken for another.
_TRAINER = ("max_steps", "max_epochs", "gradient_clip_val", "precision", "val_every_n_steps", "on_nonfinite")

_claims: ContextVar[ExitStack | None] = ContextVar("claims", default=None)


def run_session(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function that does a run: folders it claims are let go of when it ends."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with ExitStack() as stack, hardware_errors():
            token = _claims.set(stack)
            stack.callback(_claims.reset, token)
            return function(*args, **kwargs)

    return wrapped


def claim(folder: str | Path) -> None:
    """Keep other runs out of ``folder`` until the run that is going on ends; one process does it for all of its run."""
    stack = _claims.get()
    assert stack is not None, "claim() belongs into a run_session"
    if not is_main_process():
        return
    stack.enter_context(only_run_in(folder))


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
            "data.unit_dropout.max_units, take trainer.precision=bf16-mixed or a smaller model=..., then start again "
            "with resume=true"
        ) from error
    except MisconfigurationException as error:
        if "accelerator" not in str(error).lower() and "devices" not in str(error).lower():
            raise
        raise DeviceError(
            f"{' '.join(str(error).split())} Set trainer.accelerator=cpu, or auto, to use what is there"
        ) from error


def keep_result(out_dir: str | Path, recipe: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Write down that the run of ``recipe`` is finished and what came of it; one process does it for all."""
    if not is_main_process():
        return
    write_json(Path(out_dir) / RESULT, {"format": 1, "recipe": _key(recipe), **_plain(content)})


def kept_result(out_dir: str | Path, recipe: Mapping[str, Any]) -> dict[str, Any] | None:
    """What :func:`keep_result` wrote for this recipe; ``None`` if that run is not finished."""
    try:
        content = json.loads((Path(out_dir) / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(content, dict) and content.get("recipe") == json.loads(json.dumps(_key(recipe)))
    return _numbers(content) if same else None


def refuse_other_recipe(recipe: Mapping[str, Any], earlier: Mapping[str, Any], source: str | Path) -> None:
    """Refuse to continue a run with a recipe that changes what it was.

    Raises:
        RecipeError: Naming the first such key.
    """
    now, before = _flat(recipe), _flat(earlier)
    for key in sorted(now.keys() & before.keys()):
        if key not in _FREE and not key.startswith(_FREE_GROUPS) and now[key] != before[key]:
            raise RecipeError(
                f"{source} was written with {key}={before[key]}, not {now[key]}: a run cannot change it halfway; "
                "give the earlier value, or another out_dir=..."
            )


def _key(recipe: Mapping[str, Any]) -> dict[str, Any]:
    kept = {f"trainer.{name}" for name in _TRAINER}
    free = _FREE - {"init_from", "data.root", "diet.table"}
    return {
        key: value
        for key, value in _flat(recipe).items()
        if key in kept or (key not in free and not key.startswith(_FREE_GROUPS))
    }


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in recipe.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for as texts."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float:{value}"
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("float:"):
        return float(value.removeprefix("float:"))
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list) else value
