"""Every Hydra application finds our groups; a stock training script goes on a diet by configuration alone."""

from __future__ import annotations

import os
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

UNINSTALLED = """
import runpy, sys
sys.modules["hydra_plugins"] = sys.modules["poyo_ssl_plugin"] = None  # as if neither were installed
sys.argv = sys.argv[1:]
sys.path.insert(0, {folder!r})
runpy.run_path(sys.argv[0], run_name="__main__")
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


@pytest.fixture
def command(tmp_path):
    """Run the stock script as a user does; returns what it said, and checks how it ended."""

    def run(root: Path, *overrides: object, config: str = "base", installed: bool = True, ok: bool = True) -> str:
        script = [str(APP / "train.py"), f"--config-name={config}", f"hydra.run.dir={tmp_path}"]
        start = [] if installed else ["-c", UNINSTALLED.format(folder=str(APP))]
        path = os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
        ran = subprocess.run(
            [sys.executable, *start, *script, *overridden(root, *overrides)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        said = ran.stdout + ran.stderr
        assert (ran.returncode == 0) == ok, said
        return said

    return run


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
        said = app(spike_dir)
        assert seen(said, "train") == seen(said, "valid") == 60 and "diet" not in said

    @pytest.mark.parametrize("form", ["override", "defaults"])
    def test_on_a_diet(self, app, spike_dir, spike_table_path, form):
        diet = Diet.from_thresholds(PredictabilityTable.load(spike_table_path), skewness=3.0)
        overrides = ["+diet=predictable"] if form == "override" else []
        config = "base" if form == "override" else "on_a_diet"
        said = app(spike_dir, *overrides, f"diet.table={spike_table_path}", self.TABLE, config=config)
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
        said = app(spike_dir, *diet, "+diet/recordings=fed")
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

    def test_as_a_command(self, command, spike_dir, spike_table_path):
        table = f"diet.table={spike_table_path}"
        assert "diet kept" in command(spike_dir, "+diet=predictable", table, self.TABLE, "epochs=1")
        said = command(spike_dir, "+diet=predictabel", table, ok=False)
        assert "Could not find 'diet/predictabel'" in said and "unpredictable" in said

    def test_without_the_plugin_a_diet_fails_and_the_script_itself_does_not(self, command, spike_dir, spike_table_path):
        table = f"diet.table={spike_table_path}"
        said = command(spike_dir, table, config="on_a_diet", installed=False, ok=False)
        assert "Could not find 'diet/predictable'" in said
        # The override is a plain key then, so it is the table that gives it away.
        assert "diet.table" in command(spike_dir, "+diet=predictable", table, installed=False, ok=False)
        assert seen(command(spike_dir, "epochs=1", installed=False), "valid") == 60

    def test_from_a_pretrained_poyo(self, app, spike_dir, tmp_path):
        model = POYO(**self._size(), dim_out=2)
        model.unit_emb.initialize_vocab([f"old{i}" for i in range(5)])
        model.session_emb.initialize_vocab(["old"])
        torch.save(self._checkpoint(model), tmp_path / "old.ckpt")
        said = app(spike_dir, "+finetune=poyo", f"finetune.init_from={tmp_path / 'old.ckpt'}")
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
        said = app(sim_dir, config="calcium")
        assert seen(said, "train") == seen(said, "valid") == 60
        diet = Diet.from_thresholds(PredictabilityTable.load(table_path))
        said = app(sim_dir, "+diet=predictable", f"diet.table={table_path}", config="calcium")
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
