"""Checkpoints as safetensors: the same model, and a file that can hold nothing else."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from command_line import run
from left_behind import assert_equal, leaves, weights
from quick import quick

from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models import read_checkpoint, write_safetensors
from poyo_ssl_plugin.training import evaluate, finetune, pretrain


@pytest.fixture(scope="module")
def recipe(sim_dir, table_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")

    def make(command: str, name: str, *overrides: str):
        common = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={folder / name}"]
        return compose_recipe(command, None, [*quick(steps=2), *common, *overrides])

    return make


@pytest.fixture(scope="module")
def checkpoint(recipe) -> Path:
    return pretrain(recipe("pretrain", "pretrained")).checkpoint


@pytest.fixture(scope="module")
def exported(checkpoint) -> Path:
    out = checkpoint.parents[1] / "exported" / "model.safetensors"
    run("export", checkpoint, out)
    return out


def test_it_is_the_same_checkpoint_without_what_training_needs(checkpoint, exported):
    ours, theirs = read_checkpoint(checkpoint), read_checkpoint(exported)
    assert set(theirs) == {"state_dict", "hyper_parameters", "global_step"}
    assert theirs["hyper_parameters"] == ours["hyper_parameters"] and theirs["global_step"] == 2
    assert_equal(leaves(ours["state_dict"]), leaves(theirs["state_dict"]))
    # 8 bytes of length, then JSON, then numbers: what safetensors says of itself.
    (length,) = struct.unpack("<Q", exported.read_bytes()[:8])
    header = json.loads(exported.read_bytes()[8 : 8 + length])
    assert json.loads(header["__metadata__"]["poyo_ssl"])["hyper_parameters"]["trained_on"]["units"]


def test_fine_tuning_from_it_gives_the_same_weights(recipe, checkpoint, exported):
    one, two = (
        finetune(recipe("finetune", name, f"init_from={path}"))
        for name, path in (("from_checkpoint", checkpoint), ("from_export", exported))
    )
    assert one.metrics == two.metrics and one.leaks == two.leaks and two.leaks["known"]
    assert_equal(weights(one.checkpoint), weights(two.checkpoint))

    model = exported.with_name("finetuned.safetensors")
    write_safetensors(read_checkpoint(one.checkpoint), model)
    assert evaluate(model).predictions == evaluate(one.checkpoint).predictions


def test_leaks_are_seen_through_it(recipe, exported):
    with pytest.raises(RecipeError, match="was trained on"):
        finetune(recipe("finetune", "leak", f"init_from={exported}", "diet=predictable"))


def test_load_pretrained_reads_it(exported):
    loaded = CalciumPOYO.load_pretrained(exported).state_dict()
    assert_equal(weights(exported), {name: loaded[name] for name in weights(exported)})


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_other_files_are_refused(checkpoint, exported, tmp_path):
    from safetensors.torch import save

    whole = exported.read_bytes()
    bad = {
        "not a safetensors file": [
            write(tmp_path / "cut.safetensors", whole[: len(whole) // 2]),
            write(tmp_path / "empty.safetensors", b""),
            write(tmp_path / "pickle.safetensors", checkpoint.read_bytes()),
        ],
        "does not say what model it is of": [
            write(tmp_path / "plain.safetensors", save({"a": torch.ones(1)})),
            write(tmp_path / "list.safetensors", save({"a": torch.ones(1)}, {"poyo_ssl": "[1]"})),
            write(tmp_path / "deep.safetensors", save({"a": torch.ones(1)}, {"poyo_ssl": "[" * 100000})),
        ],
    }
    for message, paths in bad.items():
        for path in paths:
            with pytest.raises(CheckpointError, match=rf"{path.name}.*{message}"):
                read_checkpoint(path)


def test_a_class_named_in_it_is_not_made(recipe, checkpoint, tmp_path):
    content = read_checkpoint(finetune(recipe("finetune", "victim", f"init_from={checkpoint}")).checkpoint)
    content["hyper_parameters"]["recipe"]["model"]["_target_"] = "os.system"
    write_safetensors(content, tmp_path / "evil.safetensors")
    with pytest.raises(CheckpointError, match=r"os\.system.*refused"):
        evaluate(tmp_path / "evil.safetensors")


@pytest.mark.parametrize(
    ("name", "described", "message"),
    [
        ("model.pt", {}, r"ends in \.safetensors"),
        ("model.safetensors", {"a": {1, 2}}, "not JSON serializable"),
        ("model.safetensors", {1: "a"}, "keys that are not texts"),
    ],
)
def test_what_cannot_be_exported(tmp_path, name, described, message):
    with pytest.raises(CheckpointError, match=message):
        write_safetensors({"state_dict": {}, "hyper_parameters": described}, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
