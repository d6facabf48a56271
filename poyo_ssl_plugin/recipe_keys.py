"""What the keys of recipes mean: the comments beside them in the recipe files."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from poyo_ssl_plugin.configuration import compose_recipe, known_keys, plugin_dir, recipes_dir
from poyo_ssl_plugin.errors import RecipeError

COMMANDS = ("pretrain", "finetune")
# Settings of 'compare' and 'scale', which are no recipes.
_PRESETS = ("compare", "scale")
# Groups whose options may have keys of their own, and the commands that take them.
_CHOICES = {"diet": COMMANDS, "ssl": ("pretrain",), "optim": COMMANDS, "model": COMMANDS}
_OF_FRAMES = ("frames", "frame_loss", "decoder")
# How other applications call our models; 'model=small' is calcium_poyo_small.
_MODEL = "calcium_poyo_"


@dataclass(frozen=True)
class Key:
    """A key of a recipe.

    Attributes:
        name: The dotted key, such as ``trainer.max_steps``.
        meaning: The comment beside it or above it; empty if there is none.
        defaults: Its value by command, as YAML; a command that does not have it is left out.
        only_with: The choices that bring it, such as ``diet=quantile``; empty if it is there without any.
    """

    name: str
    meaning: str
    defaults: dict[str, str]
    only_with: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The meaning, after the choices that bring the key."""
        return f"with {' or '.join(self.only_with)}: {self.meaning}" if self.only_with else self.meaning


def explain(name: str) -> list[Key]:
    """The key of a recipe, and those under it.

    Args:
        name: A dotted key, or the beginning of some (``trainer``); empty for all keys.

    Raises:
        RecipeError: If no recipe has it.

    Example:
        >>> explain("data.window_length")[0].defaults
        {'pretrain': '2.0', 'finetune': '2.0'}
        >>> explain("diet.quantile")[0].text
        'with diet=quantile: this fraction of all scored neurons'
    """
    choices = _keys_of_choices(name.partition(".")[0])
    defaults = _defaults() | {key: values for key, (_, values) in choices.items()}
    found = [key for key in defaults if not name or key == name or key.startswith(f"{name}.")]
    if not found:
        close = difflib.get_close_matches(name, defaults, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "'poyo-ssl show' lists them"
        raise RecipeError(f"no recipe has the key {name!r}; {hint}")
    comments = _comments()
    return [Key(key, comments.get(key, ""), defaults[key], tuple(choices.get(key, ([], {}))[0])) for key in found]


def options(group: str) -> dict[str, str]:
    """What can be chosen for a group, such as ``model``, with the comment at the head of each file."""
    files = [path for root in (recipes_dir(), plugin_dir()) for path in sorted((root / group).glob("*.yaml"))]
    return {path.stem: _head(path) for path in files if group and not path.stem.startswith(_MODEL)}


@cache
def _defaults() -> dict[str, dict[str, str]]:
    """The keys of all commands, each with its value by command."""
    found: dict[str, dict[str, str]] = {}
    for command in COMMANDS:
        for key, text in _values(command).items():
            found.setdefault(key, {})[command] = text
    return found


@cache
def _keys_of_choices(section: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Keys that only a choice brings, of a section or of all (empty): the choices, and the values by command."""
    found: dict[str, tuple[list[str], dict[str, str]]] = {}

    def take(choice: str, commands: tuple[str, ...], values: dict[str, str]) -> None:
        for key, text in values.items():
            if key not in _defaults():
                found.setdefault(key, ([], dict.fromkeys(commands, text)))[0].append(choice)

    for group, commands in _CHOICES.items():
        if section in ("", group):
            for name in options(group):
                take(f"{group}={name}", commands, _values(commands[0], None, f"{group}={name}"))
    if section in ("", *_OF_FRAMES):
        take("--recipe natural_movie_frames", ("finetune",), _values("finetune", "natural_movie_frames"))
    return found


def _values(command: str, recipe: str | None = None, *overrides: str) -> dict[str, str]:
    """Every key of a composed recipe but targets, with its value as YAML."""
    from omegaconf import OmegaConf

    config = compose_recipe(command, recipe, overrides)
    values, found = OmegaConf.to_container(config), {}
    for key in known_keys(config):
        if "_target_" in key:
            continue
        value: object = values
        for part in key.split("."):
            value = value[part]  # type: ignore[index]
        found[key] = "" if isinstance(value, dict) else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    return found


@cache
def _comments() -> dict[str, str]:
    """Comments by key; those of the options that a recipe has by default come first."""
    first = set(COMMANDS)
    for command in COMMANDS:
        defaults = yaml.safe_load((recipes_dir() / f"{command}.yaml").read_text(encoding="utf-8"))["defaults"]
        first |= {option for entry in defaults if isinstance(entry, dict) for option in entry.values()}
    found: dict[str, str] = {}
    order = lambda path: (path.stem.removeprefix(_MODEL) not in first, str(path))  # noqa: E731
    for path in sorted(recipes_dir().rglob("*.yaml"), key=order):
        if path.parent.name not in _PRESETS:
            for key, comment in _commented_keys(path):
                if comment:
                    found.setdefault(key, comment)
    return found


def _commented_keys(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = plugin_dir() if plugin_dir() in path.parents else recipes_dir()
    group = ".".join(path.parent.relative_to(root).parts)
    prefix = f"{group}." if group and "@package _global_" not in text else ""
    head = len(_head_lines(lines))

    def walk(node: yaml.Node | None, prefix: str) -> Iterator[tuple[str, str]]:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            number = key.start_mark.line
            beside = lines[number].partition(" #")[2].strip()
            above = number
            while above > head and lines[above - 1].lstrip().startswith("#"):
                above -= 1
            comment = " ".join(line.strip(" #") for line in lines[above:number])
            yield f"{prefix}{key.value}", beside or comment
            yield from walk(value, f"{prefix}{key.value}.")

    yield from walk(yaml.compose(text), prefix)


def _head(path: Path) -> str:
    lines = _head_lines(path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.strip("# ") for line in lines if "@package" not in line)


def _head_lines(lines: list[str]) -> list[str]:
    n = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:n]
