"""Typed objects from the keys of a recipe: every value is checked here, once, and named if it is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import TYPE_CHECKING, TypeVar, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from poyo_ssl_plugin.training.recipe import Recipe

_Section = TypeVar("_Section", bound="DataclassInstance")
_Kind = TypeVar("_Kind", bound="Recipe")
# Given the dotted key and its value; raises RecipeError.
Check = Callable[[str, object], None]


def parse(kind: type[_Section], values: ReadOnlyValues, prefix: str = "") -> _Section:
    """A typed object from the keys of a recipe that it has fields for; other keys are left to who reads them.

    A value that is ``"???"`` counts as not given, in fields that are dictionaries too.

    Args:
        kind: A dataclass; its fields may be dataclasses again, or ``Annotated`` with a check of their value.
        values: Keys and plain values, nested as the fields are.
        prefix: What stands before a key in messages, such as ``"data."``.

    Raises:
        RecipeError: If a key without a default is not given, or a value is of another type or out of range.

    Example:
        >>> from poyo_ssl_plugin.training.recipe import Identification
        >>> parse(Identification, {"method": "unlabelled", "lr": 0.01}, "identify.")
        Identification(method='unlabelled', steps=300, batch_size=128, lr=0.01)
        >>> parse(Identification, {"method": "by_hand"}, "identify.")
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecipeError: identify.method must be none or unlabelled, not 'by_hand'
    """
    hints, given = get_type_hints(kind, include_extras=True), {}
    for entry in fields(kind):
        key, value = f"{prefix}{entry.name}", values.get(entry.name, "???")
        if isinstance(value, str) and value == "???":
            if entry.default is MISSING and entry.default_factory is MISSING:
                raise RecipeError(f"{key} is not set: give {key}=...")
            continue
        if is_dataclass(hints[entry.name]):
            if not isinstance(value, Mapping):
                raise RecipeError(f"{key} holds other keys; change one of them")
            value = parse(hints[entry.name], value, f"{key}.")
        elif isinstance(value, Mapping):
            value = {name: item for name, item in value.items() if item != "???"}
        for check in getattr(hints[entry.name], "__metadata__", ()):
            if value is not None:
                check(key, value)
        given[entry.name] = value
    try:
        return cast("_Section", OmegaConf.to_object(OmegaConf.structured(kind(**given))))
    except OmegaConfBaseException as error:
        raise RecipeError(f"{prefix}{error.full_key}: {str(error).splitlines()[0]}") from None


def parse_recipe(kind: type[_Kind], config: DictConfig) -> _Kind:
    """A composed recipe as a typed object, with all of it in plain values as its ``content``.

    Args:
        kind: :class:`~poyo_ssl_plugin.training.PretrainRecipe` or ``FinetuneRecipe``.
        config: The recipe; keys of one's own are left alone.

    Raises:
        RecipeError: Naming the first key with a value that no run can be done with.

    Example:
        >>> from poyo_ssl_plugin.configuration import compose_recipe
        >>> from poyo_ssl_plugin.training import PretrainRecipe
        >>> parse_recipe(PretrainRecipe, compose_recipe("pretrain")).trainer.max_steps
        300
        >>> parse_recipe(PretrainRecipe, compose_recipe("pretrain", overrides=["data.batch_size=many"]))
        Traceback (most recent call last):
        ...
        poyo_ssl_plugin.errors.RecipeError: data.batch_size must be a whole number of at least 1, not many
    """
    try:
        values = cast("Values", OmegaConf.to_container(config, resolve=True, throw_on_missing=False))
    except OmegaConfBaseException as error:
        raise RecipeError(" ".join(str(error).split())) from None
    return replace(parse(kind, values), content=values)


def whole(least: int) -> Check:
    """Whole numbers from ``least`` on."""

    def check(key: str, value: object) -> None:
        if type(value) is not int or value < least:
            raise RecipeError(f"{key} must be a whole number of at least {least}, not {value}")

    return check


def one_of(*words: str) -> Check:
    """One of some words."""

    def check(key: str, value: object) -> None:
        if value not in words:
            raise RecipeError(f"{key} must be {', '.join(words[:-1])} or {words[-1]}, not {value!r}")

    return check


def positive(key: str, value: object) -> None:
    """Finite numbers above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise RecipeError(f"{key} must be a positive number, not {value}")


def fraction(key: str, value: object) -> None:
    """Numbers above 0, and at most 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise RecipeError(f"{key} must be in (0, 1], not {value}")
