from __future__ import annotations

import dataclasses
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import click
import h5py
import pytest
import yaml
from command_line import run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.console import Console

from poyo_ssl_plugin.cli import main, terminal
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.configuration import compose_recipe, plugin_dir, recipe_names, recipes_dir
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.inventory import take_inventory
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.recipe_keys import explain

QUICK = ["model=tiny", "data.batch_size=8", "trainer.max_steps=4", "trainer.progress=false", "trainer.accelerator=cpu"]


class TestRecipes:
    @pytest.mark.parametrize("name", [*recipe_names("pretrain")])
    def test_pretraining_recipes_compose(self, name):
        config = compose_recipe("pretrain", name)
        assert config.ssl._target_.endswith("MaskedLatentReconstruction")

    @pytest.mark.parametrize("name", ["drifting_gratings", "natural_movie", "scratch", "paper"])
    def test_fine_tuning_recipes_compose(self, name):
        assert compose_recipe("finetune", name).diet.rule == "unpredictable"

    @pytest.mark.parametrize("group", ["diet", "model", "ssl", "optim"])
    def test_every_option_of_a_group_composes(self, group):
        options = [path for root in (recipes_dir(), plugin_dir()) for path in (root / group).glob("*.yaml")]
        assert options
        for path in options:
            compose_recipe("pretrain", overrides=[f"{group}={path.stem}"])

    def test_a_diet_by_the_name_of_its_rule(self):
        """Its own options can be given, as with ``diet=quantile``."""
        by_rule, by_name = (
            compose_recipe("pretrain", overrides=[f"{key}=quantile", "diet.by=std"]) for key in ("diet.rule", "diet")
        )
        assert by_rule == by_name and (by_rule.diet.rule, by_rule.diet.by) == ("quantile", "std")

    def test_the_paper_recipe_holds_the_paper_s_numbers(self):
        config = compose_recipe("pretrain", "paper")
        assert (config.model.dim, config.model.depth, config.model.latent_step) == (64, 6, 0.125)
        assert (config.model.num_latents_per_step, config.model.cross_heads, config.model.self_heads) == (16, 2, 8)
        assert (config.model.ffn_dropout, config.model.lin_dropout, config.model.atn_dropout) == (0.2, 0.4, 0.2)
        assert (config.data.window_length, config.data.batch_size, config.trainer.max_epochs) == (1.9, 8, 50)
        assert config.optim.optimizer.lr == pytest.approx(1.5625e-5 * 8) and config.optim.optimizer.name == "lamb"
        dropout = config.data.unit_dropout
        assert (dropout.min_units, dropout.mode_units, dropout.max_units, dropout.tail_right) == (10, 50, 300, 100)
        assert config.aux.weight == 0.01 and config.ssl.target == "live" and config.ssl.mask == "causal_time"
        fine = compose_recipe("finetune", "paper")
        assert (fine.trainer.max_epochs, fine.data.batch_size, fine.identify.method) == (25, 32, "none")

    def test_own_recipes_come_first(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "mine.yaml").write_text("_target_: poyo_ssl_plugin.CalciumPOYO\ndim: 48\n")
        (tmp_path / "pretrain_mine.yaml").write_text("defaults:\n  - pretrain\n  - override model: mine\n")
        assert compose_recipe("pretrain", "mine", folder=tmp_path).model.dim == 48
        (tmp_path / "model" / "mine.yaml").write_text("_target_: poyo_ssl_plugin.CalciumPOYO\ndim: 32\n")
        assert compose_recipe("pretrain", "mine", folder=tmp_path).model.dim == 32

    @pytest.mark.parametrize(
        ("command", "overrides"),
        [
            ("finetune", ["model=tiny", "model.dim=48", "task={name: a, source: t, label: l}", "seeds=[0,1]"]),
            ("pretrain", ["diet=quantile", "+trainer.extra=3", "ssl=masked_activity", "data.unit_dropout=null"]),
            ("pretrain", ["optim=lamb", "optim.optimizer.lr=${times:2,0.1}", "~aux", "data.recordings=['a,b']"]),
        ],
    )
    def test_it_is_what_hydra_composes(self, command, overrides):
        with initialize_config_dir(str(recipes_dir().resolve()), version_base="1.3"):
            hydra = compose(command, [f"hydra.searchpath=[file://{plugin_dir().resolve()}]", *overrides])
        for _ in range(2):  # the second time by what was kept of the first
            assert OmegaConf.to_yaml(compose_recipe(command, None, overrides)) == OmegaConf.to_yaml(hydra)

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("data.batchsize=3", "unknown key 'data.batchsize'; did you mean data.batch_size"),
            ("nonsense=1", "unknown key 'nonsense'"),
            ("diet=predictabel", "Could not find 'diet/predictabel'.*unpredictable"),
            ("data.batch_size", "missing EQUAL"),
        ],
    )
    def test_mistakes_are_explained(self, override, message):
        with pytest.raises(RecipeError, match=message):
            compose_recipe("pretrain", overrides=[override])
        with pytest.raises(RecipeError, match="no recipe 'x' for finetune; there are .*scratch"):
            compose_recipe("finetune", "x")


class TestPipeline:
    """The commands in the order of the README, each on what the one before it wrote."""

    @pytest.fixture(scope="module")
    @classmethod
    def simulated(cls, tmp_path_factory) -> tuple[Path, str]:
        place = tmp_path_factory.mktemp("cli")
        options = ["--recordings", 2, "--units", 20, "--minutes", 4, "--cre-line", "Cux2_CreERT2"]
        return place, run("simulate", place / "rec", *options)

    @pytest.fixture(scope="module")
    @classmethod
    def scored(cls, simulated) -> tuple[Path, str]:
        place, _ = simulated
        return place, run("score", place / "rec", "--out", place / "table.csv")

    @pytest.fixture(scope="module")
    @classmethod
    def inputs(cls, scored) -> list[str]:
        place, _ = scored
        return [f"data.root={place / 'rec'}", f"diet.table={place / 'table.csv'}", *QUICK]

    @pytest.fixture(scope="module")
    @classmethod
    def pretrained(cls, scored, inputs) -> tuple[Path, str]:
        out = scored[0] / "p"
        return out, run("pretrain", f"out_dir={out}", *inputs)

    @pytest.fixture(scope="module")
    @classmethod
    def finetuned(cls, pretrained, inputs, unrendered) -> dict[str, Path]:
        out = {"pretrained": pretrained[0].parent / "f", "scratch": pretrained[0].parent / "s"}
        start = f"init_from={pretrained[0] / 'checkpoints' / 'last.ckpt'}"
        with unrendered():
            run("finetune", f"out_dir={out['pretrained']}", "seeds=[0,1]", start, *inputs)
            run("finetune", "--recipe", "scratch", f"out_dir={out['scratch']}", "seeds=[0,1]", *inputs)
        return out

    def test_what_evaluate_and_export_refuse(self, finetuned, scored):
        checkpoint = finetuned["scratch"] / "seed0" / "checkpoints" / "last.ckpt"
        said = run("evaluate", checkpoint, "data=3", expect=2)
        assert "'data' holds other keys; change one of them, data.root=..." in said
        said = run("evaluate", finetuned["scratch"] / "seed0", expect=2)
        assert f"did you mean {checkpoint}?" in said
        said = run("export", scored[0] / "table.csv", scored[0] / "x.safetensors", expect=2)
        assert "table.csv: damaged or not a checkpoint" in said and not (scored[0] / "x.safetensors").exists()

    def test_simulate(self, simulated):
        place, said = simulated
        assert "2 recordings of 20 neurons" in said
        assert len(list((place / "rec").glob("*.h5"))) == 2

    def test_score(self, scored):
        place, said = scored
        table = PredictabilityTable.load(place / "table.csv")
        n = int(((table["skewness"] <= 3.51) & (table["kurtosis"] <= 22.62)).sum())
        assert f"{n} of 40 neurons are predictable" in said and "Cux2_CreERT2" in said
        for figure in ("table.png", "table_traces.png"):
            assert (place / figure).read_bytes().startswith(b"\x89PNG")

    def test_pretrain(self, pretrained):
        out, said = pretrained
        assert "effective_rank" in said
        results = json.loads((out / "results.json").read_text())
        assert results["recipe"]["model"]["dim"] == 32 and results["versions"]["torch"]
        assert (out / "curves.png").exists() and (out / "csv" / "metrics.csv").exists()
        assert list((out / "tensorboard").glob("events*"))

    @pytest.mark.parametrize("arm", ["pretrained", "scratch"])
    def test_finetune(self, finetuned, arm):
        results = json.loads((finetuned[arm] / "results.json").read_text())
        assert list(results["arms"]) == [arm]
        result = results["arms"][arm]
        values = [r["value"] for r in result["runs"]]
        assert [r["seed"] for r in result["runs"]] == [0, 1] and result["mean"] == pytest.approx(sum(values) / 2)
        assert results["chance"] == 1 / 8 and {"template", "whitened template"} < set(results["baselines"])
        assert (finetuned[arm] / "accuracy.png").exists()

    def test_evaluate(self, finetuned, tmp_path):
        said = run(
            "evaluate", finetuned["scratch"] / "seed0" / "checkpoints" / "last.ckpt", "--out", tmp_path / "e.json"
        )
        expected = json.loads((finetuned["scratch"] / "results.json").read_text())["arms"]["scratch"]["runs"][0][
            "value"
        ]
        assert json.loads((tmp_path / "e.json").read_text())["arms"]["checkpoint"]["mean"] == pytest.approx(expected)
        assert "checkpoint" in said


class TestBadInput:
    """Exit code 2, one message, nothing left behind."""

    def test_a_missing_folder(self, tmp_path):
        assert "no such folder" in run("score", tmp_path / "none", "--out", tmp_path / "t.csv", expect=2)
        assert list(tmp_path.iterdir()) == []

    def test_a_truncated_recording(self, tmp_path, sim_dir):
        (tmp_path / "rec").mkdir()
        (tmp_path / "rec" / "a.h5").write_bytes((sim_dir / "sim_000.h5").read_bytes()[:5000])
        said = run("score", tmp_path / "rec", "--out", tmp_path / "t.csv", expect=2)
        assert "a.h5: cannot be read" in said and not (tmp_path / "t.csv").exists()

    def test_an_unknown_split(self, tmp_path, sim_dir):
        said = run("score", sim_dir, "--out", tmp_path / "t.csv", "--split", "training", expect=2)
        assert "no split 'training'" in said and not (tmp_path / "t.csv").exists()

    @pytest.mark.parametrize("name", ["folder", "t.png", "table"])
    def test_a_table_that_its_figures_or_a_folder_would_be_in_the_way_of(self, tmp_path, sim_dir, name):
        (tmp_path / "folder").mkdir()
        said = run("score", sim_dir, "--out", tmp_path / name, expect=2)
        assert "ends in .csv or .parquet" in said and [path.name for path in tmp_path.iterdir()] == ["folder"]

    @pytest.mark.parametrize("seeds", ["0", "[0,0]", "[a]", "[-1]", "[]"])
    def test_seeds_that_are_none(self, tmp_path, sim_dir, seeds):
        arguments = [f"data.root={sim_dir}", "diet=all", f"seeds={seeds}", f"out_dir={tmp_path / 'f'}"]
        said = run("finetune", "--recipe", "scratch", *arguments, expect=2)
        assert "seeds must be different whole numbers" in said and not (tmp_path / "f").exists()

    @pytest.mark.parametrize("override", ["data.root=[a", "data.root=a: b", "data.root"])
    def test_an_override_that_cannot_be_read(self, tmp_path, override):
        said = run("evaluate", tmp_path / "last.ckpt", override, expect=2)
        assert override.partition("=")[0] in said and "Traceback" not in said

    def test_an_unknown_key(self):
        assert "unknown key 'data.rot'; did you mean data.root" in run("pretrain", "data.rot=x", expect=2)
        assert "unknown key 'seed'; did you mean seeds?" in run("compare", "root=x", "seed=1", expect=2)

    def test_an_unknown_recipe(self):
        assert "no recipe 'movie'" in run("finetune", "--recipe", "movie", expect=2)

    def test_a_missing_table(self, tmp_path, sim_dir):
        said = run("pretrain", f"data.root={sim_dir}", "diet.table=none.csv", f"out_dir={tmp_path / 'p'}", expect=2)
        assert "none.csv: no such table; make it with 'poyo-ssl score" in said and not (tmp_path / "p").exists()

    def test_a_missing_checkpoint(self, tmp_path):
        assert "no such checkpoint" in run("evaluate", tmp_path / "none.ckpt", expect=2)

    def test_bad_simulations(self, tmp_path):
        assert "at least 1 recording" in run("simulate", tmp_path / "x", "--recordings", 0, expect=2)
        assert not (tmp_path / "x").exists()


class TestHelp:
    def test_alone_it_shows_the_way_of_a_first_hour(self):
        said = run()
        path = ("demo", "check", "score", "pretrain data", "finetune data", "compare root")
        steps = [said.index(f"poyo-ssl {name}") for name in path]
        assert steps == sorted(steps)

    def test_help_lists_every_command_in_its_section(self):
        said = run("--help")
        assert [name for names in main.sections.values() for name in names] == list(main.commands)
        assert all(f"{title}:" in said for title in main.sections)

    @pytest.mark.parametrize("name", main.commands)
    def test_every_command_has_an_example_that_can_be_parsed(self, name):
        command = main.commands[name]
        text = command.help.split("Example")[1].replace("\\\n", " ")
        lines = re.findall(rf"poyo-ssl {name}(.*)", text)
        assert lines
        for line in lines:
            if "$(" not in text and not isinstance(command, click.Group):
                command.make_context(name, shlex.split(line))

    @pytest.mark.parametrize("command", ["pretrain", "finetune"])
    def test_defaults_in_the_help_are_those_of_the_recipe(self, command):
        listed = main.commands[command].help.split("Defaults")[1].split("Example")[0]
        overrides = re.findall(r"\S+=\S+", listed)
        recipe = "drifting_gratings" if command == "finetune" else None
        assert len(overrides) > 3
        ours, changed = (OmegaConf.to_yaml(compose_recipe(command, recipe, given)) for given in ([], overrides))
        assert ours == changed

    def test_defaults_in_the_help_are_those_of_a_comparison(self):
        listed = main.commands["compare"].help.split("defaults:")[1].split("Example")[0]
        values = {
            key: yaml.safe_load(value)
            for key, value in re.findall(r"(\w+)=(\S+)", listed)
            if key not in ("root", "KEY")
        }
        fields = {field.name: field.default for field in dataclasses.fields(Comparison)} | {"out_dir": "runs/compare"}
        assert len(values) > 8
        assert values == {key: list(fields[key]) if isinstance(fields[key], tuple) else fields[key] for key in values}

    def test_a_mistyped_command(self):
        assert "no command 'pretain'; did you mean 'pretrain'?" in run("pretain", expect=2)
        assert "no command 'xyz'; there are import, simulate" in run("xyz", expect=2)

    def test_show_prints_the_recipe(self):
        assert "window_length: 2.0" in run("pretrain", "--show")


class TestShow:
    def test_a_key_is_explained_by_the_comment_beside_it(self):
        assert "length of a window" in run("show", "data.window_length") and explain("data.window_length")[0].defaults

    def test_a_group_lists_its_options(self):
        said = run("show", "model")
        assert "model.dim" in said and "xlarge" in said

    def test_a_mistyped_key(self):
        assert "no recipe has the key 'trainr'; did you mean trainer" in run("show", "trainr", expect=2)

    def test_every_key_of_the_recipes_has_a_meaning(self):
        assert [key.name for key in explain("") if any(key.defaults.values()) and not key.meaning] == []


def test_composing_leaves_the_hydra_around_it_alone(tmp_path):
    (tmp_path / "app.yaml").write_text("mine: true\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        compose_recipe("pretrain")
        assert compose("app").mine


class TestCheck:
    @pytest.fixture
    def own(self, sim_dir, tmp_path):
        shutil.copy(sim_dir / "sim_000.h5", tmp_path)
        return tmp_path

    def test_it_says_what_each_recording_holds(self, sim_dir):
        (held, *_), damaged = take_inventory(Recordings(sim_dir))
        assert damaged == {} and held.minutes == pytest.approx(5, abs=0.1) and (held.n_units, held.rate) == (20, 30.0)
        assert sorted(held.splits) == ["test", "train", "valid"] and 0 < held.splits["test"] < held.splits["train"]
        assert held.domains["drifting_gratings"] > 1
        assert held.stimuli["drifting_gratings"] > 10 and "natural_movie" in held.tasks
        assert "sim_002" in run("check", sim_dir) and "score" in run("check", sim_dir)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda file: file["calcium_traces"].attrs.modify("sampling_rate", 1 / 30), "between samples.*30 Hz"),
            (lambda file: [file.__delitem__(f"{part}_domain") for part in ("train", "valid", "test")], "no splits"),
            (lambda file: file["rois/id"].__setitem__(1, file["rois/id"][0]), "occurs twice"),
        ],
    )
    def test_it_refuses(self, own, change, message):
        with h5py.File(own / "sim_000.h5", "r+") as file:
            change(file)
        said = run("check", own, expect=2)
        assert re.search(f"recording sim_000: .*{message}", said) and "1 of 1 recordings cannot be used" in said


def test_simulate_does_not_overwrite(sim_dir, tmp_path):
    shutil.copy(sim_dir / "sim_000.h5", tmp_path)
    before = (tmp_path / "sim_000.h5").read_bytes()
    options = [tmp_path, "--recordings", 1, "--units", 12, "--minutes", 4]
    assert "is not empty; choose another folder, or pass --force" in run("simulate", *options, expect=2)
    assert (tmp_path / "sim_000.h5").read_bytes() == before
    run("simulate", *options, "--force")
    assert (tmp_path / "sim_000.h5").read_bytes() != before


def test_score_says_when_the_thresholds_are_of_no_use(sim_dir, tmp_path):
    said = run("score", sim_dir, "--out", tmp_path / "t.csv", "--skewness", -9)
    assert "the thresholds keep 0 of 60" in said and "diet=quantile diet.table=" in said
    assert "warning" not in run("score", sim_dir, "--out", tmp_path / "t.csv", "--skewness", 1)


def test_after_scores_of_spikes_comes_a_command_that_reads_spikes(spike_dir, tmp_path):
    said = run("score", spike_dir, "--field", "spikes", "--bin-width", 0.2, "--out", tmp_path / "t.csv")
    assert f"diet.table={tmp_path / 't.csv'} data.field=spikes data.bin_width=0.2" in said


def test_diet_all_needs_no_table(sim_dir, table, tmp_path):
    said = run("pretrain", f"data.root={sim_dir}", "diet=all", f"out_dir={tmp_path / 'p'}", *QUICK)
    assert "60 units of 3 recordings" in said
    run("pretrain", f"data.root={sim_dir}", f"out_dir={tmp_path / 'q'}", *QUICK, expect=2)


@pytest.mark.parametrize("width", [30, 60])
def test_a_table_cuts_no_word_in_a_narrow_terminal(width, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=screen, force_terminal=True, width=width))
    terminal.print_table(("recording", "stimuli"), [("mouse1", "drifting_gratings"), ("mouse2", "natural_movie")])
    said = screen.getvalue()
    assert ("┏" in said) == (width == 60)  # the corner of a table
    for word in ("recording", "stimuli", "mouse1", "drifting_gratings", "mouse2", "natural_movie"):
        assert word in said
