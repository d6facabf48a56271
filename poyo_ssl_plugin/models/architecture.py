"""The architecture that a checkpoint holds, and a recipe's model held against it."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models.checkpoint import read_checkpoint
from poyo_ssl_plugin.plain import ReadOnlyValues, State, Values

logger = logging.getLogger(__name__)

# The only classes that a checkpoint may ask for.
KNOWN_MODELS = (
    "poyo_ssl_plugin.CalciumPOYO",
    "torch_brain.models.POYO",
    "torch_brain.models.POYOPlus",
    "torch_brain.models.CalciumPOYOPlus",
)
# Arguments that a fine-tuned model may have otherwise than the checkpoint: no weight of the backbone depends on them.
_FREE = {"sequence_length", "readout", "ffn_dropout", "lin_dropout", "atn_dropout", "latent_dropout", "emb_init_scale"}


def held_model(checkpoint: State) -> Values:
    """The model of a checkpoint as a recipe names it: its class as ``_target_``, and its arguments but the outputs.

    Args:
        checkpoint: What :func:`~poyo_ssl_plugin.models.read_checkpoint` gives.

    Returns:
        Plain values by name; empty where the checkpoint does not say, or is of a class that only the recipe may name.

    Example:
        >>> model = {"_target_": "poyo_ssl_plugin.CalciumPOYO", "dim": 32, "dim_out": {"direction": 8}}
        >>> held_model({"hyper_parameters": {"model": model}, "state_dict": {}})
        {'_target_': 'poyo_ssl_plugin.CalciumPOYO', 'dim': 32}
    """
    record = checkpoint["hyper_parameters"]
    model = record.get("recipe", {}).get("model") or record.get("model") or {}
    if model.get("_target_") not in KNOWN_MODELS:
        return {}
    return {name: value for name, value in model.items() if isinstance(value, str | int | float | None)}


def refuse_unknown_classes(model: ReadOnlyValues, *, source: str | Path) -> None:
    """Refuse a checkpoint's model that is of an unknown class: a checkpoint is data and not code.

    Raises:
        CheckpointError: If its class is none of :data:`KNOWN_MODELS`, or an argument names a class.
    """
    target = model.get("_target_")
    nested = next((value for name, value in model.items() if name != "_target_" and "_target_" in str(value)), None)
    if target not in KNOWN_MODELS or nested is not None:
        raise CheckpointError(f"{source}: asks for the class {nested or target!r}, which is refused")


def model_to_start(
    asked: ReadOnlyValues, init_from: str | Path | None, *, chosen: Collection[str] = ()
) -> ReadOnlyValues:
    """The model of a recipe that may start from a checkpoint: then the checkpoint's.

    Weights of another class, such as those of torch_brain's POYO for a CalciumPOYO, are taken as far as they fit:
    the recipe keeps its model where the user chose the class, or the checkpoint is not of this package.

    Args:
        asked: The recipe's model.
        init_from: The checkpoint, if there is one.
        chosen: Arguments of the model that the user gave and did not leave at their defaults.

    Raises:
        RecipeError: If the user chose another model.
        CheckpointError: If the checkpoint cannot be read.

    Example:
        >>> import tempfile
        >>> import torch
        >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> model = {"_target_": "poyo_ssl_plugin.CalciumPOYO", "dim": 32}
        >>> torch.save({"state_dict": {}, "hyper_parameters": {"recipe": {"model": model}}}, path)
        >>> model_to_start({**model, "dim": 64}, path)["dim"], model_to_start({**model, "dim": 64}, None)["dim"]
        (32, 64)
    """
    if init_from is None:
        return asked
    checkpoint = read_checkpoint(init_from)
    held = held_model(checkpoint)
    of_another_class = held.get("_target_") != asked.get("_target_")
    if of_another_class and ("_target_" in chosen or "recipe" not in checkpoint["hyper_parameters"]):
        return asked
    return model_to_train(asked, held, chosen=chosen, source=init_from)


def model_to_train(
    asked: ReadOnlyValues, held: ReadOnlyValues, *, chosen: Collection[str] = (), source: str | Path
) -> Values:
    """The model of a recipe that starts from a checkpoint: the checkpoint's, where the two differ.

    Args:
        asked: The recipe's model.
        held: The checkpoint's, see :func:`held_model`.
        chosen: Arguments that the user gave and did not leave at their defaults.
        source: The checkpoint, for messages.

    Raises:
        RecipeError: If an argument was chosen that the checkpoint's weights do not have.

    Example:
        >>> small, tiny = {"dim": 64, "latent_dropout": 0.2}, {"dim": 32, "latent_dropout": 0.2}
        >>> model_to_train(small, tiny, source="tiny.ckpt"), model_to_train(tiny, tiny, source="tiny.ckpt")
        ({'dim': 32, 'latent_dropout': 0.2}, {'dim': 32, 'latent_dropout': 0.2})
        >>> model_to_train(small, tiny, chosen=["dim"], source="tiny.ckpt")
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecipeError: tiny.ckpt holds a model of dim=32, not 64: leave ...
    """
    other = [name for name in held if name not in _FREE and held[name] != asked.get(name, held[name])]
    if not other:
        return dict(asked)
    refused = next((name for name in other if name in chosen), None)
    if refused is not None:
        raise RecipeError(
            f"{source} holds a model of {refused}={held[refused]}, not {asked[refused]}: leave model=... and "
            f"model.{refused}=... out, and the checkpoint's model is taken"
        )
    kept = {name: value for name, value in asked.items() if name in chosen or name == "sequence_length"}
    taken = {**held, **kept}
    differing = ", ".join(f"{name}={value}" for name, value in taken.items() if asked.get(name) != value)
    logger.info("model: that of %s, not the recipe's (%s)", source, differing)
    return taken
