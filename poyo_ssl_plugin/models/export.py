"""Checkpoints as safetensors: weights that any framework reads, and no code in the file at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.files import atomic_path

SUFFIX = ".safetensors"
_KEY = "poyo_ssl"


def write_safetensors(checkpoint: Mapping[str, Any], path: str | Path) -> None:
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


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Read what :func:`write_safetensors` wrote; tensors and plain values are all it can hold.

    Raises:
        CheckpointError: If the file is damaged or not written by it.
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


def _to_json(content: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the checkpoint cannot be exported: {error}") from None
    if _words(json.loads(text)) != _words(content):
        raise CheckpointError("the checkpoint cannot be exported: it has keys that are not texts")
    return text


def _words(value: Any) -> Any:
    """The keys of nested mappings."""
    if isinstance(value, Mapping):
        return {key: _words(item) for key, item in value.items()}
    return [_words(item) for item in value] if isinstance(value, list | tuple) else None
