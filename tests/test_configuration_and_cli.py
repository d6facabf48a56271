from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.configuration import compose_recipe, recipe_names, recipes_dir
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.predictability import PredictabilityTable

QUICK = ["model=tiny", "data.batch_size=8", "trainer.max_steps=4", "trainer.progress=false", "trainer.accelerator=cpu"]


def run(*arguments: object, expect: int = 0) -> str:
    # The catching of errors is part of the group, so it must run; standalone mode is how a shell runs it.
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    output = result.output + (result.stderr if result.stderr_bytes else "")
    if result.exit_code != expect:
        raise AssertionError(f"exit code {result.exit_code}: {output}") from result.exception
    return " ".join(output.split())


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
        for path in (recipes_dir() / group).glob("*.yaml"):
            compose_recipe("pretrain", overrides=[f"{group}={path.stem}"])

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
        assert (fine.trainer.max_epochs, fine.data.batch_size, fine.identify_steps) == (25, 32, 0)

    def test_own_recipes_come_first(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "mine.yaml").write_text("_target_: poyo_ssl_plugin.CalciumPOYO\ndim: 48\n")
        (tmp_path / "pretrain_mine.yaml").write_text("defaults:\n  - pretrain\n  - override model: mine\n")
        assert compose_recipe("pretrain", "mine", folder=tmp_path).model.dim == 48

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
    def simulated(self, tmp_path_factory) -> tuple[Path, str]:
        place = tmp_path_factory.mktemp("cli")
        options = ["--recordings", 2, "--units", 20, "--minutes", 4, "--cre-line", "Cux2_CreERT2"]
        return place, run("simulate", place / "rec", *options)

    @pytest.fixture(scope="module")
    def scored(self, simulated) -> tuple[Path, str]:
        place, _ = simulated
        return place, run("score", place / "rec", "--out", place / "table.csv")

    @pytest.fixture(scope="module")
    def inputs(self, scored) -> list[str]:
        place, _ = scored
        return [f"data.root={place / 'rec'}", f"diet.table={place / 'table.csv'}", *QUICK]

    @pytest.fixture(scope="module")
    def pretrained(self, scored, inputs) -> tuple[Path, str]:
        out = scored[0] / "p"
        return out, run("pretrain", f"out_dir={out}", *inputs)

    @pytest.fixture(scope="module")
    def finetuned(self, pretrained, inputs) -> dict[str, Path]:
        out = {"pretrained": pretrained[0].parent / "f", "scratch": pretrained[0].parent / "s"}
        start = f"init_from={pretrained[0] / 'checkpoints' / 'last.ckpt'}"
        run("finetune", f"out_dir={out['pretrained']}", "seeds=[0,1]", start, *inputs)
        run("finetune", "--recipe", "scratch", f"out_dir={out['scratch']}", "seeds=[0,1]", *inputs)
        return out

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
        assert results["chance"] == 1 / 8 and set(results["baselines"]) == {"linear decoder", "template"}
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


def test_help_teaches_and_show_prints_the_recipe():
    assert "poyo-ssl score DATASET_DIR" in run("--help")
    for command in main.commands:
        assert len(run(command, "--help")) > 100
    assert "window_length: 2.0" in run("pretrain", "--show")


def test_doctor_names_what_is_there():
    said = run("doctor")
    for word in ("torch", "torch_brain generation", "recipes", "Hydra"):
        assert word in said
