"""What runs leave behind, to compare them by: weights, whole states, and logs."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from poyo_ssl_plugin.models import model_state, read_checkpoint

STATE = ("global_step", "state_dict", "optimizer_states", "lr_schedulers")


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The tensors of the model."""
    return {k: v for k, v in model_state(read_checkpoint(checkpoint)).items() if isinstance(v, torch.Tensor)}


def state(checkpoint: Path) -> dict[str, object]:
    """All numbers and tensors that say what was learned, by their places in the file."""
    content = read_checkpoint(checkpoint)
    return leaves({part: content[part] for part in STATE})


def leaves(value: object, place: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, item in value.items() for k, v in leaves(item, f"{place}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, item in enumerate(value) for k, v in leaves(item, f"{place}/{i}").items()}
    return {place: value}


def log(folder: Path) -> dict[tuple[int, str], str]:
    """What the log of a run says of every step and metric; the later row counts."""
    with (folder / "csv" / "metrics.csv").open(newline="") as file:
        return {
            (int(row["step"]), name): value
            for row in csv.DictReader(file)
            for name, value in row.items()
            if name != "step" and value != ""
        }


def assert_equal(one: dict, other: dict) -> None:
    """The same names, and bit for bit the same under each."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name]
        assert same, name
