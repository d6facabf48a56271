"""Checkpoints, read without unpickling: torch_brain's, Lightning's, and those of this package.

An export as safetensors holds the weights in a form that any framework reads, and no code at all.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.plain import State, Values

SUFFIX = ".safetensors"
_KEY = "poyo_ssl"
_PREFIX = "model."


def read_checkpoint(path: str | Path) -> State:
    """Read a checkpoint, or an export of one as safetensors; nothing in it is ever executed.

    Returns:
        The checkpoint; it has the mappings ``state_dict`` and ``hyper_parameters``.

    Raises:
        CheckpointError: If the file is missing, damaged, holds more than tensors and plain values, or is of a
            version whose encoder is gone.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> torch.save({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": {"model": {"dim": 8}}}, path)
        >>> read_checkpoint(path)["hyper_parameters"]
        {'model': {'dim': 8}}
        >>> torch.save({"state_dict": {}, "hyper_parameters": {"run": Path}}, path)  # a class is code
        >>> read_checkpoint(path)
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.CheckpointError: ...: refused, since it holds Python objects and not only tensors; ...
    """
    path = Path(path)
    if not path.is_file():
        last = path / "checkpoints" / "last.ckpt"
        raise CheckpointError(f"{path}: no such checkpoint" + (f"; did you mean {last}?" if last.is_file() else ""))
    checkpoint = read_safetensors(path) if path.suffix == SUFFIX else _read_torch(path)
    model = checkpoint["hyper_parameters"].get("model")
    if isinstance(model, Mapping) and "token" in model:
        raise CheckpointError(
            f"{path}: written by an older version, whose encoder (token={model['token']!r}) is gone; pretrain again, "
            "or use the version that wrote it"
        )
    return checkpoint


def _read_torch(path: Path) -> State:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, since it holds Python objects and not only tensors; save it again as a "
            f"state_dict with plain hyper-parameters ({_refused(error)})"
        ) from None
    except Exception as error:  # of any type: torch takes other files for pickles
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({first_line(error)})") from None
    for key in ("state_dict", "hyper_parameters"):
        if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(key), Mapping):
            raise CheckpointError(f"{path}: not a checkpoint: it lacks 'state_dict' or 'hyper_parameters'")
    return checkpoint


def model_state(checkpoint: State) -> State:
    """The tensors and vocabularies of the checkpoint's model, by the names the model has for them.

    A Lightning module keeps its model under ``model.``; what else it keeps is left out. A checkpoint
    without that prefix is of a bare model.

    Example:
        >>> model_state({"state_dict": {"model.readout.bias": torch.ones(1), "objective.token": torch.zeros(1)}})
        {'readout.bias': tensor([1.])}
    """
    state = checkpoint["state_dict"]
    of_model = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    return of_model or dict(state)


def model_arguments(checkpoint: State) -> Values:
    """The arguments that the checkpoint's model was made with, without ``_target_``.

    Raises:
        KeyError: If the checkpoint does not say.
    """
    arguments = dict(checkpoint["hyper_parameters"]["model"])
    arguments.pop("_target_", None)
    return arguments


def write_safetensors(checkpoint: State, path: str | Path) -> None:
    """Write the weights of a checkpoint, and what it says of itself as JSON in the file's metadata.

    What only training needs (optimiser, schedule, random states) is left out.

    Args:
        checkpoint: What :func:`~poyo_ssl_plugin.models.read_checkpoint` gives.
        path: Where to write; must end in ``.safetensors``, by which it is told from other checkpoints.

    Raises:
        CheckpointError: If the name does not fit, or the checkpoint holds what JSON has no word for.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> checkpoint = {"state_dict": {"a": torch.ones(2), "words": {"NA": 0}}, "hyper_parameters": {"dim": 8}}
        >>> write_safetensors(checkpoint, path)
        >>> read_safetensors(path)["state_dict"]
        {'words': {'NA': 0}, 'a': tensor([1., 1.])}
    """
    from safetensors.torch import save

    if Path(path).suffix != SUFFIX:
        raise CheckpointError(f"{path}: give it a name that ends in {SUFFIX}")
    state = checkpoint["state_dict"]
    # Tensors may share memory, which the format cannot say.
    tensors = {key: value.contiguous().clone() for key, value in state.items() if isinstance(value, torch.Tensor)}
    content = {
        "format": 1,
        "hyper_parameters": checkpoint["hyper_parameters"],
        "values": {key: value for key, value in state.items() if key not in tensors},
        "global_step": checkpoint.get("global_step"),
    }
    written = save(tensors, metadata={_KEY: _to_json(content)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(written)


def read_safetensors(path: str | Path) -> State:
    """Read what :func:`write_safetensors` wrote; tensors and plain values are all it can hold.

    Raises:
        CheckpointError: If the file is damaged or not written by it.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> write_safetensors({"state_dict": {"a": torch.ones(2)}, "hyper_parameters": {"model": {"dim": 8}}}, path)
        >>> read_safetensors(path)["hyper_parameters"]
        {'model': {'dim': 8}}
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not a safetensors file ({' '.join(str(error).split())})") from None
    try:
        content = json.loads(metadata[_KEY])
        values, described = dict(content["values"]), dict(content["hyper_parameters"])
        step = content.get("global_step")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise CheckpointError(
            f"{path}: does not say what model it is of; 'poyo-ssl export' writes files that do"
        ) from None
    return {"state_dict": {**values, **tensors}, "hyper_parameters": described, "global_step": step}


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _refused(error: Exception) -> str:
    """The name of the first refused object, out of torch's long message."""
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "Unsupported" in line]
    return lines[0] if lines else "unsupported content"


def _to_json(content: Values) -> str:
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint cannot be exported: {error}") from None
    if _words(json.loads(text)) != _words(content):
        raise CheckpointError("the checkpoint cannot be exported: it has keys that are not texts")
    return text


def _words(value: object) -> object:
    """The keys of nested mappings."""
    if isinstance(value, Mapping):
        return {key: _words(item) for key, item in value.items()}
    return [_words(item) for item in value] if isinstance(value, list | tuple) else None
