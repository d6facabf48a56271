"""Checkpoints, read without unpickling: torch_brain's, Lightning's, and those of this package."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.models.export import SUFFIX, read_safetensors

_PREFIX = "model."


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or an export of one as safetensors; nothing in it is ever executed.

    Returns:
        The checkpoint; it has the mappings ``state_dict`` and ``hyper_parameters``.

    Raises:
        CheckpointError: If the file is missing, damaged, holds more than tensors and plain values, or is of a
            version whose encoder is gone.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    checkpoint = read_safetensors(path) if path.suffix == SUFFIX else _read_torch(path)
    model = checkpoint["hyper_parameters"].get("model")
    if isinstance(model, Mapping) and "token" in model:
        raise CheckpointError(
            f"{path}: written by an older version, whose encoder (token={model['token']!r}) is gone; pretrain again, "
            "or use the version that wrote it"
        )
    return checkpoint


def _read_torch(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since it holds Python objects and not only tensors; save it again as a "
            f"state_dict with plain hyper-parameters ({_refused(error)})"
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({first_line(error)})") from None
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), Mapping):
            raise CheckpointError(f"{path}: not a checkpoint: it lacks 'state_dict' or 'hyper_parameters'")
    return checkpoint


def model_state(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors and vocabularies of the checkpoint's model, by the names the model has for them.

    A Lightning module keeps its model under ``model.``; what else it keeps is left out. A checkpoint
    without that prefix is of a bare model.
    """
    state = checkpoint["state_dict"]
    of_model = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    return of_model or dict(state)


def model_arguments(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that the checkpoint's model was made with, without ``_target_``.

    Raises:
        KeyError: If the checkpoint does not say.
    """
    arguments = dict(checkpoint["hyper_parameters"]["model"])
    arguments.pop("_target_", None)
    return arguments


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _refused(error: Exception) -> str:
    """The name of the first refused object, out of torch's long message."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return lines[0] if lines else "unsupported content"
