"""A model before its first step: made as a recipe names it, with random weights or a checkpoint's."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra.utils
from torch import nn

from poyo_ssl_plugin.compat import GENERATION, InfiniteVocabEmbedding
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models.adapters import adapter_class
from poyo_ssl_plugin.models.checkpoint import first_line, model_state, read_checkpoint
from poyo_ssl_plugin.models.latents import check_family
from poyo_ssl_plugin.models.readout import PrototypeReadout
from poyo_ssl_plugin.models.vocabulary import Source, replace_vocabulary
from poyo_ssl_plugin.models.weights import LoadReport, load_weights
from poyo_ssl_plugin.plain import ReadOnlyValues

logger = logging.getLogger(__name__)


def build_model(recipe: ReadOnlyValues, tasks: Mapping[str, int], *, classes: bool = True) -> nn.Module:
    """A model of the POYO family with a readout for each task.

    Args:
        recipe: Its class as ``_target_``, and its arguments but the outputs.
        tasks: Task name to number of outputs.
        classes: Whether outputs are scores of classes. Prototypes are of classes; other outputs are linear in a
            decoded query.

    Raises:
        RecipeError: If there is no such class, or it is not of the family or refuses its arguments.

    Example:
        >>> recipe = {"_target_": "poyo_ssl_plugin.CalciumPOYO", "sequence_length": 2.0, "latent_step": 0.5, "dim": 16}
        >>> model = build_model(recipe, {"turn": 2})
        >>> type(model).__name__, model.arguments["dim_out"]
        ('CalciumPOYO', {'turn': 2})
    """
    arguments = dict(recipe)
    if not classes and arguments.get("readout") == "prototypes":
        arguments["readout"] = "linear"
    target = str(arguments.get("_target_"))
    try:
        readout = adapter_class(hydra.utils.get_class(target)).readout(tasks)
    except (ImportError, ValueError, KeyError, hydra.errors.HydraException) as error:
        if isinstance(error, RecipeError):
            raise
        hint = ""
        if target.startswith("torch_brain.") and GENERATION == "0.2":
            hint = "; POYOPlus and CalciumPOYOPlus are only in torch_brain 0.1"
        raise RecipeError(f"model: {first_line(error)}{hint}") from error
    model: nn.Module = instantiate(arguments, "model", **readout)
    check_family(model)
    return model


def instantiate(recipe: ReadOnlyValues, group: str, **further: Any) -> Any:
    """What a group of a recipe names.

    Raises:
        RecipeError: If it cannot be made.

    Example:
        >>> instantiate({"_target_": "torch.nn.Linear", "in_features": 2}, "model", out_features=3)
        Linear(in_features=2, out_features=3, bias=True)
        >>> instantiate({"_target_": "torch.nn.Linear", "width": 2}, "model")
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecipeError: model: ...
    """
    try:
        # Hydra would turn dataclasses among the arguments into dictionaries, so these are given afterwards.
        return hydra.utils.instantiate(recipe, _partial_=True, _convert_="all")(**further)
    except (hydra.errors.InstantiationException, TypeError, ValueError) as error:
        raise RecipeError(f"{group}: {first_line(error.__cause__ or error)}") from error


def initialise(
    model: nn.Module,
    unit_ids: Sequence[str],
    session_ids: Sequence[str],
    *,
    init_from: str | Path | None = None,
    vocabulary: Source = "pretrained",
) -> LoadReport | None:
    """Give a model its neurons and recordings, and the weights of a checkpoint if there is one.

    Args:
        model: The model, changed in place.
        unit_ids: Its neurons. Those that the checkpoint knows keep their vectors.
        session_ids: Its recordings, likewise.
        init_from: The checkpoint.
        vocabulary: Where new vectors come from, see :func:`~poyo_ssl_plugin.models.replace_vocabulary`.

    Returns:
        Which weights were taken; ``None`` without a checkpoint.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or is of another architecture.

    Example:
        >>> from poyo_ssl_plugin import CalciumPOYO
        >>> model = CalciumPOYO(sequence_length=1.0, latent_step=0.25, dim_out=8, dim=16, depth=1)
        >>> initialise(model, ["a", "b"], ["mouse1"]) is None  # no checkpoint
        True
        >>> list(model.unit_emb.vocab), list(model.session_emb.vocab)
        (['NA', 'a', 'b'], ['NA', 'mouse1'])
    """
    vocabularies: dict[str, tuple[InfiniteVocabEmbedding, Sequence[str]]] = {
        "unit_emb": (model.unit_emb, unit_ids),
        "session_emb": (model.session_emb, session_ids),
    }
    if isinstance(model.readout, PrototypeReadout):
        prototypes = model.readout.prototypes
        vocabularies |= {f"prototypes of {name}": (each, session_ids) for name, each in prototypes.items()}
    if init_from is None:
        for embedding, words in vocabularies.values():
            embedding.initialize_vocab(list(words))
        return None
    report = load_weights(model, model_state(read_checkpoint(init_from)), source=init_from)
    logger.info("init_from %s: %s", init_from, report.summary())
    for name, (embedding, words) in vocabularies.items():
        known = replace_vocabulary(embedding, words, source=vocabulary)
        if known:
            logger.info("%s: %d of %d are known to the checkpoint and keep their weights", name, known, len(words))
    return report
