"""Recipes: finding them, composing them with overrides, and saying what is wrong with an override."""

from __future__ import annotations

import copy
import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

if TYPE_CHECKING:
    from omegaconf import DictConfig  # takes long to import, and not every command needs it

__all__ = ["compose_recipe"]

# An override that gives a key a value, and nothing to Hydra's own keys.
_VALUE = re.compile(r"(?!hydra\b)[A-Za-z_][\w.]*=")
# Keys that came later, at the values where a run is what it was without them: runs from before stay finished.
_LATER = {"trainer.compile": False, "trainer.accumulate_grad_batches": 1, "trainer.limit_val_batches": 1.0}


def recipes_dir() -> Path:
    """Folder of the recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed, checkout = package / "recipes", package.parent / "recipes"
    return installed if installed.is_dir() else checkout


def plugin_dir() -> Path:
    """Folder of the groups that every Hydra application finds; what only our own commands use is above it."""
    return recipes_dir() / "plugin"


def recipe_names(command: str) -> list[str]:
    """Names that ``--recipe`` of a command takes, the default first."""
    stems = [path.stem for path in sorted(recipes_dir().glob("*.yaml"))]
    related = [stem for stem in stems if command in stem.split("_")]
    names = [stem.removeprefix(f"{command}_").removesuffix(f"_{command}") for stem in related]
    return names + (["scratch"] if command == "finetune" else [])


def compose_recipe(
    command: str, recipe: str | None = None, overrides: Sequence[str] = (), folder: Path | None = None
) -> DictConfig:
    """Compose a recipe.

    One that starts from a checkpoint has the checkpoint's model, unless an override names another.

    Args:
        command: ``"pretrain"``, ``"finetune"`` or ``"demo"``.
        recipe: A recipe of that command, by its short name (``"natural_movie"``) or its file's name.
        overrides: Hydra overrides, such as ``"data.batch_size=8"``.
        folder: A folder of your own recipes and groups; they come before the package's.

    Returns:
        The composed configuration (``omegaconf.DictConfig``).

    Raises:
        RecipeError: If the recipe or a key does not exist, an override cannot be read, or it names a model that is
            not the checkpoint's.

    Example:
        >>> config = compose_recipe("pretrain", overrides=["model=tiny", "trainer.max_steps=10"])
        >>> config.model.dim, config.trainer.max_steps
        (32, 10)
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    name = _file_name(command, recipe, folder)
    if not any(override.startswith("diet=") for override in overrides):
        overrides = [_diet_by_name(override) for override in overrides]
    try:
        config = _compose(name, overrides, folder)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise RecipeError(f"recipe {name}: {_explain(error, name, folder)}") from None
    if not OmegaConf.is_missing(config, "init_from") and Path(config.get("init_from") or "").is_file():
        from poyo_ssl_plugin.models import model_to_start

        chosen = chosen_arguments(overrides, config.model)
        config.model = model_to_start(config.model, config.init_from, chosen=chosen)
    return config


def chosen_arguments(overrides: Sequence[str], model: ReadOnlyValues) -> set[str]:
    """Arguments of a recipe's model that overrides give: all of them with ``model=NAME``.

    Example:
        >>> chosen_arguments(["seed=1", "model.dim=32"], {"dim": 32, "depth": 1})
        {'dim'}
    """
    keys = {override.partition("=")[0].lstrip("+") for override in overrides}
    return {name for name in map(str, model) if "model" in keys or f"model.{name}" in keys}


def known_keys(config, prefix: str = "") -> list[str]:  # type: ignore[no-untyped-def]
    """All dotted keys of a configuration, depth first."""
    from omegaconf import DictConfig

    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += known_keys(node, f"{prefix}{key}.")
    return keys


def flat(values: ReadOnlyValues, prefix: str = "") -> Values:
    """Dotted keys and values of nested mappings.

    Example:
        >>> flat({"aux": {"task": None, "weight": 1.0}, "seed": 0})
        {'aux.task': None, 'aux.weight': 1.0, 'seed': 0}
    """
    found: Values = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def without_later(values: ReadOnlyValues) -> Values:
    """Dotted keys and values but those that came later, where a run is what it was without them.

    Example:
        >>> without_later({"seed": 0, "trainer.limit_val_batches": 1.0})
        {'seed': 0}
        >>> without_later({"trainer.limit_val_batches": 1})  # one batch, not all of them
        {'trainer.limit_val_batches': 1}
    """
    return {key: value for key, value in values.items() if key not in _LATER or repr(value) != repr(_LATER[key])}


def _diet_by_name(override: str) -> str:
    """``diet.rule=quantile`` is the diet of that name, so that its own options can be given beside it."""
    key, _, rule = override.partition("=")
    named = key == "diet.rule" and (plugin_dir() / "diet" / f"{rule}.yaml").is_file()
    return f"diet={rule}" if named else override


def _file_name(command: str, recipe: str | None, folder: Path | None) -> str:
    candidates = [command] if recipe is None else [f"{command}_{recipe}", f"{recipe}_{command}", recipe]
    for place in filter(None, (folder, recipes_dir())):
        for candidate in candidates:
            if (place / f"{candidate}.yaml").is_file():
                return candidate
    raise RecipeError(f"no recipe {recipe!r} for {command}; there are {', '.join(recipe_names(command))}")


def _compose(name: str, overrides: Sequence[str], folder: Path | None):  # type: ignore[no-untyped-def]
    """What Hydra composes. Files are composed once for a choice of groups, and values put in as Hydra does."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    places = tuple(place.resolve() for place in (folder, recipes_dir(), plugin_dir()) if place is not None)
    values = [override for override in overrides if _VALUE.match(override) and not _names_group(override, places)]
    try:
        parsed = OverridesParser.create().parse_overrides(values)
        if any(override.is_sweep_override() for override in parsed):
            return _compose_files(name, tuple(overrides), places)
        groups = tuple(override for override in overrides if override not in values)
        # Files that were edited meanwhile are read anew.
        edited = max(file.stat().st_mtime_ns for place in places for file in place.rglob("*.yaml"))
        config = copy.deepcopy(_composed_once(name, groups, places, edited))
        for override in parsed:
            OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        return config
    except (HydraException, OmegaConfBaseException, ValueError):
        # Its own error says more, in the words that users of Hydra know.
        return _compose_files(name, tuple(overrides), places)


def _names_group(override: str, places: Sequence[Path]) -> bool:
    return any((place / override.partition("=")[0]).is_dir() for place in places)


def _compose_files(name: str, overrides: tuple[str, ...], places: tuple[Path, ...]):  # type: ignore[no-untyped-def]
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    if not OmegaConf.has_resolver("times"):
        OmegaConf.register_new_resolver("times", lambda a, b: a * b)
    first, *others = places
    search = f"hydra.searchpath=[{','.join(f'file://{place}' for place in others)}]"
    # Composing inside of a Hydra application leaves that application's Hydra as it was.
    outer = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(first), version_base="1.3"):
            return compose(name, overrides=[search, *overrides])
    finally:
        GlobalHydra.instance().hydra = outer


@functools.lru_cache(maxsize=32)
def _composed_once(name: str, groups: tuple[str, ...], places: tuple[Path, ...], edited: int):  # type: ignore[no-untyped-def]
    return _compose_files(name, groups, places)


def _explain(error: Exception, name: str, folder: Path | None) -> str:
    """A Hydra error in one line; for an unknown key, with the nearest known ones."""
    unknown = getattr(error.__cause__, "full_key", None)
    if unknown and "is not in struct" in str(error.__cause__):
        close = difflib.get_close_matches(unknown, known_keys(_compose(name, [], folder)), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "'poyo-ssl show' lists the keys"
        return f"unknown key {unknown!r}; {hint}"
    message = " ".join(str(error.__cause__ or error).split("Config search path")[0].split())
    return message.removeprefix(f"In '{name}': ")
