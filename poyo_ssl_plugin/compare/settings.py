"""Settings of an experiment: a preset, changed by ``key=value`` texts."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import yaml

from poyo_ssl_plugin.compare.progress import Track
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.record import read_json
from poyo_ssl_plugin.configuration import recipes_dir
from poyo_ssl_plugin.data import simulate
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.files import write_json
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

_Settings = TypeVar("_Settings")
_TEXTS = ("recordings", "held_out", "pretrain", "finetune")


def comparison_from_overrides(overrides: Sequence[str], preset: str | None = None) -> tuple[Comparison, Values]:
    """A comparison from a preset and ``key=value`` texts; returns and raises as :func:`read_settings`.

    Example:
        >>> comparison_from_overrides(["root=recordings", "seeds=[0,1]", "folds=5"])[0].seeds
        (0, 1)
    """
    return read_settings(Comparison, "compare", preset, overrides)


def preset_names(command: str) -> list[str]:
    """Names of the presets of ``compare`` or ``scale``."""
    return sorted(path.stem for path in (recipes_dir() / command).glob("*.yaml"))


def read_settings(
    cls: type[_Settings], command: str, preset: str | None, overrides: Sequence[str]
) -> tuple[_Settings, Values]:
    """Settings of an experiment, and how to simulate its recordings if it was given none.

    Args:
        cls: The dataclass of the settings; it has ``root`` and ``out_dir``.
        command: ``"compare"`` or ``"scale"``, whose presets are in ``recipes/<command>``.
        preset: Name of a preset, or none.
        overrides: Texts ``key=value``, the value in YAML; they come after the preset.

    Returns:
        The settings, and arguments of :func:`~poyo_ssl_plugin.data.simulate` if the preset has them and ``root``
        is not given; ``root`` is then ``<out_dir>/recordings``.

    Raises:
        RecipeError: If a key or the preset is unknown, a value cannot be read, or ``root`` is missing.
    """
    values = {"out_dir": f"runs/{command}", **_preset(command, preset), **parse_overrides(overrides, cls)}
    recordings = values.pop("simulate", None) or {}
    if values.get("root") is not None:
        recordings = {}
    elif recordings:
        values["root"] = str(Path(values["out_dir"]) / "recordings")
    else:
        raise RecipeError("root is not set: give root=..., the folder of the recordings, or a preset that simulates")
    fixed = {key: _fix(cls, command, key, value) for key, value in values.items()}
    return cls(**fixed), recordings


def parse_overrides(overrides: Sequence[str], cls: type = Comparison) -> Values:
    """The values of ``key=value`` texts whose keys are fields of a dataclass.

    Raises:
        RecipeError: If a key is unknown or a value is not YAML.

    Example:
        >>> parse_overrides(["root=recordings", "seeds=[0,1]"])
        {'root': 'recordings', 'seeds': [0, 1]}
    """
    known = [field.name for field in dataclasses.fields(cls)]
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
            raise RecipeError(f"unknown key {key!r}; {hint}")
        try:
            # Ids are texts: YAML would make a number of 2024_05_01 and of 007.
            loader = (yaml.BaseLoader if key in _TEXTS else yaml.SafeLoader)(text)
            values[key] = loader.get_single_data()
        except yaml.YAMLError as error:
            raise RecipeError(f"{key}: cannot read {text!r} ({' '.join(str(error).split())})") from None
    return values


def prepare_recordings(root: str | Path, recordings: ReadOnlyValues, progress: Track | None = None) -> None:
    """Simulate the recordings of a preset, once: a second start with the same arguments keeps them.

    Raises:
        RecipeError: If the folder holds recordings of other arguments.
    """
    marker = Path(root) / "simulation.json"
    earlier = read_json(marker)
    if not recordings or earlier == json.loads(json.dumps(recordings)):
        return
    if earlier is not None:
        raise RecipeError(f"{root} holds recordings simulated with other settings: choose another out_dir=...")
    simulate(root, progress=progress, **recordings)
    write_json(marker, dict(recordings))


def _preset(command: str, preset: str | None) -> Values:
    if preset is None:
        return {}
    path = recipes_dir() / command / f"{preset}.yaml"
    if not path.is_file():
        raise RecipeError(f"no preset {preset!r} for {command}; there are {', '.join(preset_names(command))}")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def _fix(cls: type, command: str, key: str, value: object) -> object:
    """A value as the settings want it: tuples for lists, texts for ids and overrides, numbers for numbers."""
    default = {field.name: field.default for field in dataclasses.fields(cls)}[key]
    if isinstance(default, tuple):
        if isinstance(value, str) and key in ("recordings", "held_out"):
            value = value.split(",")
        items = list(value) if isinstance(value, list | tuple) else [value]
        items = [str(item) for item in items] if key in _TEXTS else items
        if key == "seeds" and not all(type(item) is int and item >= 0 for item in items):
            raise RecipeError(f"seeds must be whole numbers from 0 on, not {items}")
        return tuple(items)
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise RecipeError(f"{key} of {command} must be true or false, not {value!r}")
    elif isinstance(default, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(default, int) and value % 1):
            raise RecipeError(f"{key} of {command} must be a number, not {value!r}")
        value = type(default)(value)
    elif isinstance(value, Mapping):
        # A declared task, as one text that recipes and get_task read.
        value = _flow(value)
    else:
        value = str(value)
    return value


def _flow(value: object) -> str:
    """A value in one line of YAML, as Hydra reads it too: keys bare, and texts bare where they stay texts.

    Example:
        >>> _flow({"name": "turn", "classes": ["left", "no", "2"], "step": 0.5})
        '{name: turn, classes: [left, "no", "2"], step: 0.5}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
