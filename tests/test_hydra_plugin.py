"""Every Hydra application finds our groups; a stock training script goes on a diet by configuration alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException, MissingConfigException
from hydra.utils import instantiate
from omegaconf import OmegaConf

import poyo_ssl_plugin
from poyo_ssl_plugin import CalciumPOYO, SelectUnits
from poyo_ssl_plugin.compat import GENERATION, POYO, DatasetIndex
from poyo_ssl_plugin.configuration import compose_recipe, plugin_dir, recipes_dir
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import CheckpointError, DietError
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
from poyo_ssl_plugin.recordings import own_ids
from poyo_ssl_plugin.training import model_state, pretrained_model, read_checkpoint

APP = Path(__file__).parent / "stock_app"
PACKAGE = Path(poyo_ssl_plugin.__file__).resolve().parents[1]
current_only = pytest.mark.skipif(GENERATION != "0.2", reason="torch_brain 0.1's POYO has no dim_out")

# Runs the stock script with each line of arguments in a process of its own, which is spared the imports of torch.
COMMANDS = """
import json, os, runpy, sys
import hydra, torch, torch_brain.models
script, installed, lines = json.loads(sys.argv[1])
if not installed:
    sys.modules["hydra_plugins"] = sys.modules["poyo_ssl_plugin"] = None  # as if neither were installed
sys.path[0] = os.path.dirname(script)
for line in lines:
    process = os.fork()
    if not process:
        sys.argv = [script, *line]
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def composed(folder: Path, name: str, *overrides: str):
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def overridden(root: Path, *overrides: object) -> list[str]:
    return [f"data_root={root.parent}", f"dataset.dirname={root.name}", *map(str, overrides)]


@pytest.fixture
def app(caplog, monkeypatch):
    """Run the stock script in this process; returns what it logged, or the error's message if it is to fail."""
    monkeypatch.syspath_prepend(str(APP))
    caplog.set_level("INFO")

    def run(root: Path, *overrides: object, config: str = "base", fails: type[Exception] | None = None) -> str:
        import train

        caplog.clear()
        configuration = composed(APP / "configs", config, *overridden(root, *overrides))
        if fails is None:
            train.main.__wrapped__(configuration)
            return caplog.text
        with pytest.raises(fails) as raised:
            train.main.__wrapped__(configuration)
        return str(raised.value)

    return run


def run_commands(place: Path, root: Path, *lines: tuple[str, ...], installed: bool = True) -> list[tuple[str, int]]:
    """Run the stock script with each line of arguments as a user does: what each said, and how it ended."""
    given = [[*line, *overridden(root, f"hydra.run.dir={place}")] for line in lines]
    ran = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([str(APP / "train.py"), installed, given])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])},
    )
    *found, rest = re.split(r"ended with (\d+)\n", ran.stdout)
    assert ran.returncode == 0 and rest == "", ran.stdout
    return list(zip(found[::2], map(int, found[1::2]), strict=True))


def seen(said: str, part: str) -> int:
    """How many units the script saw in the last epoch."""
    return int([line for line in said.splitlines() if f" {part}: loss" in line][-1].split(",")[-1].split()[0])


class TestGroups:
    @pytest.fixture
    def empty(self, tmp_path) -> Path:
        (tmp_path / "app.yaml").write_text("model:\n  dim: 8\n")
        return tmp_path

    @pytest.mark.parametrize("name", sorted(path.stem for path in (plugin_dir() / "diet").glob("*.yaml")))
    def test_diets_are_those_of_our_own_recipes(self, empty, name):
        config = composed(empty, "app", f"+diet={name}")
        ours = compose_recipe("pretrain", overrides=[f"diet={name}"])
        assert config.diet == ours.diet and config.diet.rule == name and config.diet.table is None
        assert "train_transform" not in ours
        assert config.train_transform._target_ == "poyo_ssl_plugin.DietUnitDropout"
        assert config.eval_transform.diet == config.diet

    def test_every_diet_objective_and_size_of_ours_is_there(self):
        def names(folder: Path) -> set[str]:
            return {path.stem for path in folder.glob("*.yaml")}

        assert names(plugin_dir() / "finetune") == {"poyo", "calcium_poyo"}
        assert not (recipes_dir() / "diet").exists() and not (recipes_dir() / "ssl").exists()
        for name in names(plugin_dir() / "model"):
            theirs = OmegaConf.load(plugin_dir() / "model" / f"{name}.yaml")
            ours = compose_recipe("pretrain", overrides=[f"model={name.removeprefix('calcium_poyo_')}"]).model
            assert isinstance(theirs.sequence_length, float) and ours.sequence_length == 2.0
            assert {**theirs, "sequence_length": 2.0} == {**ours}

    def test_ssl_and_model_instantiate(self, empty):
        config = composed(empty, "app", "+ssl=masked_latent", "+model=calcium_poyo_tiny")
        assert instantiate(config.ssl).mask_token.shape == (32,)
        assert instantiate(config.model, dim_out=3).readout.out_features == 3

    def test_the_application_s_own_configurations_come_first(self, empty):
        (empty / "diet").mkdir()
        (empty / "diet" / "predictable.yaml").write_text("mine: true\n")
        assert composed(empty, "app", "+diet=predictable").diet == {"mine": True}
        assert composed(empty, "app", "+diet=random").diet.rule == "random"

    def test_the_recipes_of_our_commands_stay_ours(self, empty):
        for group, option in (("data", "windows"), ("trainer", "default"), ("optim", "lamb"), ("model", "small")):
            assert not (plugin_dir() / group / f"{option}.yaml").exists()
        with pytest.raises(MissingConfigException):
            composed(empty, "pretrain")

    def test_a_typo_fails_and_lists_what_there_is(self, empty):
        with pytest.raises(MissingConfigException, match=r"(?s)diet/predictabel.*unpredictable"):
            composed(empty, "app", "+diet=predictabel")


@current_only
class TestStockScript:
    TABLE = "diet.skewness=3.0"

    def test_without_a_diet(self, app, spike_dir):
        said = app(spike_dir, "epochs=1")
        assert seen(said, "train") == seen(said, "valid") == 60 and "diet" not in said

    def test_in_its_defaults_a_diet_is_what_it_is_as_an_override(self):
        configs = APP / "configs"
        by_default, by_override = composed(configs, "on_a_diet"), composed(configs, "base", "+diet=predictable")
        assert by_default == by_override and by_default.diet.rule == "predictable"

    def test_on_a_diet(self, app, spike_dir, spike_table_path):
        diet = Diet.from_thresholds(PredictabilityTable.load(spike_table_path), skewness=3.0)
        said = app(spike_dir, "+diet=predictable", f"diet.table={spike_table_path}", self.TABLE)
        assert f"diet kept {len(diet)} of 60 units in 3 of 3 recordings of those in the table (predictable)" in said
        assert seen(said, "valid") == seen(said, "train") == len(diet) < 60
        losses = [float(line.split("loss ")[1].split(",")[0]) for line in said.splitlines() if "train: loss" in line]
        assert losses[1] < losses[0]

    def test_the_script_s_own_arguments_stay(self, spike_table_path):
        config = composed(APP / "configs", "base", "+diet=predictable", f"diet.table={spike_table_path}")
        dropout = instantiate(config.train_transform)
        assert (dropout.field, dropout.distribution.max_units, dropout.distribution.peak) == ("spikes", 16, 4)

    def test_recordings_that_the_diet_feeds_nothing_of(self, app, spike_dir, spike_table_path):
        diet = ["+diet=cre_lines", f"diet.table={spike_table_path}"]
        said = app(spike_dir, *diet, fails=DietError)
        assert "has none of its neurons" in said and "recording_ids" in said
        said = app(spike_dir, *diet, "+diet/recordings=fed", "epochs=1")
        assert (
            "diet kept 20 of 60 units in 1 of 3 recordings of those in the table (cre-lines)" in said
            and seen(said, "valid") == 20
        )

    def test_without_a_table_it_says_how_to_make_one(self, app, spike_dir, tmp_path):
        said = app(spike_dir, "+diet=predictable", fails=InstantiationException)
        assert "poyo-ssl score DATASET_DIR --out" in said and "diet.table=" in said
        said = app(spike_dir, "+diet=predictable", f"diet.table={tmp_path / 'none.csv'}", fails=InstantiationException)
        assert "none.csv: no such table; make it with 'poyo-ssl score" in said

    def test_a_transform_that_is_no_unit_dropout_is_explained(self, tmp_path, spike_table_path):
        transform = "train_transform:\n  _target_: torch_brain.transforms.Compose\n  transforms: []\n"
        (tmp_path / "app.yaml").write_text(transform)
        config = composed(tmp_path, "app", "+diet=predictable", f"diet.table={spike_table_path}")
        with pytest.raises(InstantiationException, match="list SelectUnits among its transforms instead"):
            instantiate(config.train_transform)

    def test_as_a_command(self, tmp_path, spike_dir, spike_table_path):
        table = f"diet.table={spike_table_path}"
        (said, ended), (typo, typo_ended) = run_commands(
            tmp_path, spike_dir, ("+diet=predictable", table, self.TABLE, "epochs=1"), ("+diet=predictabel", table)
        )
        assert ended == 0 and "diet kept" in said, said
        assert typo_ended != 0 and "Could not find 'diet/predictabel'" in typo and "unpredictable" in typo

    def test_without_the_plugin_a_diet_fails_and_the_script_itself_does_not(
        self, tmp_path, spike_dir, spike_table_path
    ):
        table = f"diet.table={spike_table_path}"
        lines = ("--config-name=on_a_diet", table), ("+diet=predictable", table), ("epochs=1",)
        (by_default, _), (by_override, _), (without, _) = found = run_commands(
            tmp_path, spike_dir, *lines, installed=False
        )
        assert [ended == 0 for _, ended in found] == [False, False, True]
        assert "Could not find 'diet/predictable'" in by_default
        # The override is a plain key then, so it is the table that gives it away.
        assert "diet.table" in by_override
        assert seen(without, "valid") == 60

    def test_from_a_pretrained_poyo(self, app, spike_dir, tmp_path):
        model = POYO(**self._size(), dim_out=2)
        model.unit_emb.initialize_vocab([f"old{i}" for i in range(5)])
        model.session_emb.initialize_vocab(["old"])
        torch.save(self._checkpoint(model), tmp_path / "old.ckpt")
        said = app(spike_dir, "+finetune=poyo", f"finetune.init_from={tmp_path / 'old.ckpt'}", "epochs=1")
        assert "loaded" in said and seen(said, "valid") == 60
        said = app(spike_dir, "+finetune=poyo", fails=InstantiationException)
        assert "finetune.init_from is not set" in said

    @staticmethod
    def _size() -> dict:
        size = OmegaConf.to_container(OmegaConf.load(APP / "configs" / "model" / "poyo_tiny.yaml"))
        return {key: value for key, value in size.items() if key != "_target_"}

    @staticmethod
    def _checkpoint(model) -> dict:
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        return {"state_dict": state, "hyper_parameters": {"model": TestStockScript._size()}}


class TestStockScriptOnTraces:
    def test_with_and_without_a_diet(self, app, sim_dir, table_path):
        said = app(sim_dir, "epochs=1", config="calcium")
        assert seen(said, "train") == seen(said, "valid") == 60
        diet = Diet.from_thresholds(PredictabilityTable.load(table_path))
        said = app(sim_dir, "+diet=predictable", f"diet.table={table_path}", "epochs=1", config="calcium")
        assert f"diet kept {len(diet)} of 60 units" in said and seen(said, "valid") == len(diet)


class TestPretrainedModel:
    def test_weights_come_and_neurons_are_exchanged(self, tmp_path, sim_dir):
        size = {"sequence_length": 1.0, "latent_step": 0.25, "dim": 16, "depth": 1, "dim_out": 2}
        old = CalciumPOYO(**size)
        old.set_vocabs(unit_ids=[f"old{i}" for i in range(400)], session_ids=["old", "older"])
        with torch.no_grad():
            old.unit_emb.weight[1:] += 5.0
        content = {
            "state_dict": {f"model.{key}": value for key, value in old.state_dict().items()},
            "hyper_parameters": {},
        }
        torch.save(content, tmp_path / "old.ckpt")
        arguments = {"family": "poyo_ssl_plugin.CalciumPOYO", "init_from": tmp_path / "old.ckpt", **size}
        new = pretrained_model(**arguments)
        new.init_vocabs(Recordings(sim_dir))
        assert len(new.unit_emb.vocab) == 61 and "old0" not in new.unit_emb.vocab
        assert new.unit_emb.weight[1:].mean().item() == pytest.approx(5.0, abs=0.2)
        state = model_state(read_checkpoint(tmp_path / "old.ckpt"))
        assert torch.equal(new.proc_layers[0][0].to_qkv.weight, state["proc_layers.0.0.to_qkv.weight"])
        plain = pretrained_model(**arguments, vocabulary="normal")
        plain.init_vocabs(Recordings(sim_dir))
        assert abs(plain.unit_emb.weight[1:].mean().item()) < 0.2

    def test_class_means_are_those_of_the_new_recordings(self, tmp_path, sim_dir):
        size = {"sequence_length": 1.0, "latent_step": 0.25, "dim": 16, "depth": 1, "dim_out": {"turn": 2}}
        old = CalciumPOYO(**size, readout="prototypes")
        old.set_vocabs(unit_ids=["a", "b"], session_ids=["old"])
        weights = old.save_pretrained(tmp_path) / "model.safetensors"
        new = pretrained_model(family=CalciumPOYO, init_from=weights, **size, readout="prototypes")
        new.init_vocabs(Recordings(sim_dir))
        assert list(new.readout.prototypes["turn"].vocab) == ["NA", *Recordings(sim_dir).recording_ids]

    def test_mistakes(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"none\.ckpt: no such checkpoint"):
            pretrained_model(family=CalciumPOYO, init_from=tmp_path / "none.ckpt", dim=16)


def test_a_list_of_transforms_takes_the_diet_as_one_of_them(sim_dir, table_path, tmp_path):
    """What docs/ecosystem.md says to do where a script has a list, or a Compose."""
    (tmp_path / "app.yaml").write_text(
        "train_transforms:\n  - _target_: poyo_ssl_plugin.SelectUnits\n    diet: ${diet}\n"
        "  - _target_: torch_brain.transforms.UnitDropout\n    field: calcium_traces.df_over_f\n"
    )
    config = composed(tmp_path, "app", "+diet=predictable", f"diet.table={table_path}")
    select, _ = instantiate(config.train_transforms)
    assert isinstance(select, SelectUnits)
    window = Recordings(sim_dir, transform=select)[DatasetIndex("sim_001", 5.0, 6.0)]
    assert sorted(own_ids(window.rois.id, "sim_001").tolist()) == select.diet.units("sim_001")
