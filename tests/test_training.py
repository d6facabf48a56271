from __future__ import annotations

import dataclasses
import io
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from left_behind import assert_equal, weights
from omegaconf import DictConfig, OmegaConf
from quick import quick

from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compare.figures import read_metric
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.errors import CheckpointError, DietError, RecipeError, RecordingError, TableError
from poyo_ssl_plugin.training import (
    FinetuneRecipe,
    Pretraining,
    PretrainRecipe,
    RunResult,
    evaluate,
    finetune,
    load_weights,
    model_state,
    open_finetuned,
    parse_recipe,
    prepare_finetuning,
    pretrain,
    read_checkpoint,
)
from poyo_ssl_plugin.training.optim import make_optimizer, make_schedule
from poyo_ssl_plugin.training.tokens import answered

QUICK = quick(steps=6, val_every=3)


def run_in(folder: Path, sim_dir: Path, table_path: Path, command: str, recipe: str | None = None) -> DictConfig:
    places = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={folder}"]
    return compose_recipe(command, recipe, [*QUICK, *places])


@pytest.fixture(scope="module")
def pretraining(sim_dir, table_path, tmp_path_factory) -> RunResult:
    """A pretraining of a few steps."""
    return pretrain(run_in(tmp_path_factory.mktemp("pretrained"), sim_dir, table_path, "pretrain"))


@pytest.fixture(scope="module")
def pretrained(pretraining) -> Path:
    """Its checkpoint."""
    return pretraining.checkpoint


@pytest.fixture(scope="module")
def finetuned(sim_dir, table_path, tmp_path_factory) -> RunResult:
    """A fine-tuning of a few steps, from scratch."""
    folder = tmp_path_factory.mktemp("finetuned")
    return finetune(run_in(folder, sim_dir, table_path, "finetune", "scratch"), seed=3)


class TestPretrain:
    def test_it_logs_the_terms_and_the_health_of_the_latents(self, pretraining):
        result = pretraining
        assert {"valid/masked", "valid/auxiliary", "valid/effective_rank", "valid/latent_std"} <= set(result.metrics)
        assert result.initial["valid/effective_rank"] > 1
        steps, values = read_metric(result.out_dir, "train/loss")
        assert len(steps) == 6 and np.isfinite(values).all()
        assert (result.out_dir / "recipe.yaml").exists()
        assert {p.name for p in (result.out_dir / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}

    def test_the_vocabulary_is_the_diet(self, pretrained, table):
        from poyo_ssl_plugin.predictability import Diet

        diet = Diet.from_thresholds(table)
        vocabulary = model_state(read_checkpoint(pretrained))["unit_emb.vocab"]
        assert set(vocabulary) - {"NA"} == {f"{name}/{unit}" for name in diet.recordings for unit in diet.units(name)}

    def test_the_checkpoint_records_what_was_seen(self, pretrained, table):
        record = read_checkpoint(pretrained)["hyper_parameters"]
        assert record["recipe"]["ssl"]["mask"] == "random_time"
        assert record["model"]["dim"] == 32 and record["model"]["dim_out"] == {"drifting_gratings": 8}
        assert record["trained_on"]["intervals"]["sim_000"] == table.provenance["intervals"]["sim_000"]
        assert record["trained_on"]["subjects"]["sim_001"] == "animal_sim_001"

    def test_load_pretrained_reads_it(self, pretrained):
        model = CalciumPOYO.load_pretrained(pretrained)
        loaded = model.state_dict()
        assert_equal(weights(pretrained), {name: loaded[name] for name in weights(pretrained)})

    def test_the_same_seed_gives_the_same_weights(self, recipe, pretrained):
        assert_equal(weights(pretrain(recipe("pretrain")).checkpoint), weights(pretrained))

    def test_resuming_trains_the_rest(self, recipe):
        pretrain(recipe("pretrain", "trainer.max_steps=3"))
        with pytest.raises(RecipeError, match="resume=true"):
            pretrain(recipe("pretrain"))
        result = pretrain(recipe("pretrain", "resume=true"))
        assert read_checkpoint(result.checkpoint)["global_step"] == 6
        steps, _ = read_metric(result.out_dir, "train/loss")
        assert len(steps) == 6

    def test_the_last_checkpoint_is_the_last_state(self, recipe):
        config = recipe("pretrain", "trainer.max_steps=7", "trainer.val_every_n_steps=2")
        assert read_checkpoint(pretrain(config).checkpoint)["global_step"] == 7

    def test_recordings_without_gratings_go_without_the_auxiliary_loss(self, real_dir, tmp_path, caplog):
        from poyo_ssl_plugin.data import Recordings
        from poyo_ssl_plugin.predictability import score_dataset

        score_dataset(Recordings(real_dir)).to_csv(tmp_path / "t.csv")
        overrides = [f"data.root={real_dir}", f"diet.table={tmp_path / 't.csv'}", f"out_dir={tmp_path / 'run'}"]
        result = pretrain(compose_recipe("pretrain", overrides=[*QUICK, *overrides, "trainer.max_steps=2"]))
        assert "no recording has labels of drifting_gratings" in caplog.text
        assert "train/auxiliary" not in result.metrics and math.isfinite(result.metrics["train/masked"])

    def test_the_auxiliary_loss_is_logged_for_steps_with_labels_only(self, recipe, monkeypatch):
        labelled = []
        train = Pretraining.training_step

        def step(module, batch, index):
            labelled.append(bool((batch["target"] != IGNORED).any()))
            return train(module, batch, index)

        monkeypatch.setattr(Pretraining, "training_step", step)
        steps = ["trainer.max_steps=12", "trainer.val_every_n_steps=12"]
        result = pretrain(recipe("pretrain", "data.batch_size=1", *steps))
        assert set(labelled) == {True, False}
        rows = pd.read_csv(result.out_dir / "csv" / "metrics.csv").groupby("step").last().dropna(subset="train/loss")
        assert rows["train/auxiliary"].notna().tolist() == labelled

    def test_progress_is_lines_where_nobody_draws_a_bar(self, recipe, caplog):
        with caplog.at_level(logging.INFO):
            pretrain(recipe("pretrain", "trainer.progress=true"))
        said = [message for message in caplog.messages if message.startswith("pretraining: step")]
        assert len(said) == 6 and said[-1].startswith("pretraining: step 6 of 6, 0:00:00 left, loss ")
        assert sum(message.startswith("diet kept") for message in caplog.messages) == 1

    def test_progress_is_one_bar_on_a_terminal(self, recipe, monkeypatch):
        from rich.console import Console

        screen = io.StringIO()
        terminal = Console(file=screen, force_terminal=True, width=100)
        monkeypatch.setattr("poyo_ssl_plugin.training.step_progress.Console", lambda stderr: terminal)
        pretrain(recipe("pretrain", "trainer.progress=true"))
        assert "pretraining" in screen.getvalue() and "6/6" in screen.getvalue()
        assert "Epoch" not in screen.getvalue() and "v_num" not in screen.getvalue()

    def test_the_paper_recipe_runs(self, recipe):
        config = recipe(
            "pretrain",
            "trainer.max_epochs=1",
            "trainer.max_steps=2",
            "model=paper",
            "model.depth=1",
            "model.dim=32",
            "data.batch_size=2",
            recipe="paper",
        )
        result = pretrain(config)
        assert set(result.metrics) >= {"train/masked", "train/auxiliary"}
        assert "train/variance" not in result.metrics


class TestFinetune:
    def test_pretrained_weights_are_taken_and_vocabularies_replaced(self, recipe, pretrained, table):
        config = recipe("finetune", f"init_from={pretrained}", "transfer=probe")
        result = finetune(config)
        before, after = model_state(read_checkpoint(pretrained)), model_state(read_checkpoint(result.checkpoint))
        vocabulary = set(after["unit_emb.vocab"]) - {"NA"}
        assert vocabulary and not vocabulary & set(before["unit_emb.vocab"])
        shared = [name for name in before if name.startswith(("read_in.", "proc_layers.", "latent_emb."))]
        assert len(shared) > 10 and all(torch.equal(before[name], after[name]) for name in shared)
        assert set(shared) <= set(result.loaded.loaded)
        assert not result.loaded.skipped and not result.loaded.fresh

    def test_the_model_is_the_checkpoint_s(self, sim_dir, table_path, pretrained, tmp_path, caplog):
        caplog.set_level(logging.INFO)
        places = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={tmp_path / 'run'}"]
        own = [option for option in QUICK if not option.startswith("model=")]
        config = compose_recipe(
            "finetune", overrides=[*own, *places, f"init_from={pretrained}", "model.lin_dropout=0.1"]
        )
        assert caplog.text.count("model: that of") == 1 and "dim=32" in caplog.text
        assert (config.model.dim, config.model.depth, config.model.lin_dropout) == (32, 1, 0.1)
        # A recipe that was given its checkpoint later, as those of comparisons are.
        config = compose_recipe("finetune", overrides=[*own, *places, "init_from=null"])
        config.init_from = str(pretrained)
        result = finetune(config)
        assert read_checkpoint(result.checkpoint)["hyper_parameters"]["recipe"]["model"]["dim"] == 32
        assert evaluate(result.checkpoint).metrics["test/accuracy"] == result.metrics["test/accuracy"]

    def test_all_of_it_moves_by_default(self, recipe, pretrained):
        result = finetune(recipe("finetune", f"init_from={pretrained}"))
        before, after = model_state(read_checkpoint(pretrained)), model_state(read_checkpoint(result.checkpoint))
        for name in (
            "read_in.temporal",
            "read_in.spatial.weight",
            "proc_layers.0.0.to_qkv.weight",
            "latent_emb.weight",
        ):
            assert not torch.equal(before[name], after[name]), name

    def test_another_task_gets_a_new_readout(self, recipe, pretrained):
        result = finetune(recipe("finetune", f"init_from={pretrained}", recipe="natural_movie"))
        assert result.loaded.fresh == ["readout.log_scale.natural_movie"]
        assert "readout.log_scale.drifting_gratings" in result.loaded.skipped

    def test_the_scale_of_scores_starts_anew(self, recipe, pretrained, tmp_path):
        """That of the auxiliary task, which may have the same name, is of other recordings and more labels."""
        content = read_checkpoint(pretrained)
        name = "readout.log_scale.drifting_gratings"
        content["state_dict"][f"model.{name}"].fill_(5.0)
        torch.save(content, tmp_path / "sure.ckpt")
        options = (f"init_from={tmp_path / 'sure.ckpt'}", "trainer.max_steps=1")
        result = finetune(recipe("finetune", *options))
        assert model_state(read_checkpoint(result.checkpoint))[name].exp().item() == pytest.approx(16, rel=0.05)

    def test_the_test_is_every_held_out_trial(self, finetuned, dataset):
        from poyo_ssl_plugin.data import find_trials, get_task

        result = finetuned
        trials = {
            n: find_trials(dataset.get_recording(n), get_task("drifting_gratings"), "test")
            for n in dataset.recording_ids
        }
        tested = {row["recording_id"] for row in result.predictions}
        assert len(result.predictions) == sum(len(trials[name]) for name in tested)
        for row in result.predictions:
            of = trials[row["recording_id"]]
            nearest = np.argmin(np.abs(of.centre - row["time"]))
            assert row["label"] == of.label[nearest] and abs(of.centre[nearest] - row["time"]) < 0.01
        share = np.mean([row["label"] == row["prediction"] for row in result.predictions])
        assert result.metrics["test/accuracy"] == pytest.approx(share)

    def test_fewer_labels_are_the_earliest_of_each_class_and_only_in_training(self, recipe):
        whole, few = (prepare_finetuning(recipe("finetune", f"label_fraction={share}")).data for share in (1.0, 0.4))
        for part in ("valid", "test"):
            assert [len(data.trials(part)["sim_000"]) for data in (whole, few)] == [
                len(whole.trials(part)["sim_000"])
            ] * 2
        for name, all_trials in whole.trials("train").items():
            kept = few.trials("train")[name]
            for label in np.unique(all_trials.label):
                of_class = all_trials.start[all_trials.label == label]
                expected = np.sort(of_class)[: max(1, int(np.ceil(0.4 * len(of_class))))]
                np.testing.assert_array_equal(kept.start[kept.label == label], expected)
        kept = few.trials("train")
        for window in few.samplers["train"]:
            trials = kept[window.recording_id]
            assert ((trials.start < window.target_time) & (window.target_time < trials.end)).any()

    @pytest.mark.parametrize("share", [0.0, 1.2])
    def test_a_wrong_share_of_labels(self, recipe, share):
        with pytest.raises(RecipeError, match="label_fraction must be in"):
            finetune(recipe("finetune", f"label_fraction={share}"))

    def test_it_learns(self, recipe):
        """Far above chance within seconds: thirty seconds of a movie, a tiny model."""
        config = recipe("finetune", "diet=all", "task=natural_movie", "trainer.max_steps=50")
        assert finetune(config).metrics["test/accuracy"] > 8 / 30

    def test_evaluate_gives_the_same_numbers(self, finetuned):
        again = evaluate(finetuned.checkpoint)
        assert again.predictions == finetuned.predictions and again.task == "drifting_gratings"
        assert again.metrics["test/accuracy"] == finetuned.metrics["test/accuracy"]

    @pytest.mark.parametrize("smoothing", [0.0, 0.5])
    def test_the_loss_of_the_test_is_the_log_loss_whatever_training_smooths(self, finetuned, smoothing):
        opened = open_finetuned(finetuned.checkpoint)
        model, batches = opened.module.model.eval(), list(opened.data.test_dataloader())
        with torch.no_grad():
            outputs = [model(**batch["inputs"]) for batch in batches]
        asked = [answered(opened.module.adapter, *pair, opened.data.task.name) for pair in zip(outputs, batches)]
        answer, label = (torch.cat(parts) for parts in zip(*asked))
        log_loss = -answer.log_softmax(dim=1).gather(1, label[:, None]).mean()
        tested = evaluate(finetuned.checkpoint, {"label_smoothing": smoothing}).metrics["test/loss"]
        assert tested == pytest.approx(float(log_loss), rel=1e-5)

    def test_an_opened_run_has_the_training_trials_that_it_had(self, recipe):
        run = finetune(recipe("finetune", "label_fraction=0.3", "shuffle_labels=true"), seed=2)
        prepared = prepare_finetuning(recipe("finetune", "label_fraction=0.3"), seed=2)
        opened = open_finetuned(run.checkpoint)
        assert opened.data.shuffle_labels and opened.data.seed == 2
        for name, trials in prepared.data.trials("train").items():
            assert np.array_equal(opened.data.trials("train")[name].start, trials.start)

    def test_neurons_that_pretraining_saw_are_refused(self, recipe, pretrained, caplog):
        with pytest.raises(RecipeError, match=r"trained on \d+ of the neurons.*allow_leak"):
            finetune(recipe("finetune", f"init_from={pretrained}", "diet=predictable"))
        result = finetune(recipe("finetune", f"init_from={pretrained}", "diet=predictable", "allow_leak=true"))
        leaks = read_checkpoint(result.checkpoint)["hyper_parameters"]["leaks"]
        assert leaks["units"] > 0 and leaks["test_seconds"] == 0 and "allowed" in caplog.text

    def test_test_time_that_pretraining_saw_is_refused(self, recipe, pretrained, dataset):
        from poyo_ssl_plugin.data.splits import recorded_split
        from poyo_ssl_plugin.training import Inputs

        config = recipe("finetune", f"init_from={pretrained}")
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        split = recorded_split(dataset)
        inputs.split = {"train": split["test"], "valid": split["valid"], "test": split["train"]}
        with pytest.raises(RecipeError, match=r"on \d+ s of the test time"):
            finetune(config, inputs)


class TestBadInput:
    """One clear message, and nothing written."""

    @pytest.mark.parametrize(
        ("overrides", "error", "message"),
        [
            (["data.root=???"], RecipeError, "data.root is not set"),
            (["diet.table=???"], RecipeError, "diet.table is not set"),
            (["data.root=nowhere"], RecordingError, "nowhere: no such folder"),
            (["diet.table=nothing.csv"], TableError, "nothing.csv: no such table"),
            (["diet.skewness=-9"], DietError, "it keeps nothing; choose other thresholds, or another diet"),
            (["+diet.skewnes=1"], DietError, "unexpected keyword"),
            (["data.window_length=1000.0"], RecordingError, "window .*Set data.window_length lower"),
            (["data.stimulus=nothing"], RecordingError, "nothing_domain"),
            (["aux.task=nothing"], RecipeError, "unknown task"),
            (["ssl.mask=nothing"], RecipeError, "unknown mask"),
            (["model.dim=0"], RecipeError, "dim must be greater than 0"),
            (["data.recordings=[sim_009]"], RecordingError, "no recording sim_009"),
            (["init_from=none.ckpt"], CheckpointError, "none.ckpt: no such checkpoint"),
            (["optim.optimizer.name=sgd"], RecipeError, "unknown optimizer 'sgd'"),
            (["optim.optimizer=lamb"], RecipeError, "optim.optimizer holds other keys; change one of them"),
            (["optim.optimizer.lr=-1"], RecipeError, "optim.optimizer.lr must be a positive number, not -1"),
            (["data.window_length=-2"], RecipeError, "data.window_length must be a positive number"),
            (["data.batch_size=0"], RecipeError, "data.batch_size must be a whole number of at least 1, not 0"),
            (["data.num_workers=-1"], RecipeError, "data.num_workers must be"),
            (["trainer.max_steps=-5"], RecipeError, "trainer.max_steps must be"),
            (["trainer.max_steps=-1"], RecipeError, "give trainer.max_epochs"),
            (["trainer.max_steps=many"], RecipeError, "trainer.max_steps must be"),
            (["trainer.val_every_n_steps=0"], RecipeError, "trainer.val_every_n_steps must be"),
            (["trainer.precision=half"], RecipeError, "trainer: Precision 'half' is invalid"),
            (["trainer.strategy=none"], RecipeError, "trainer: .*strategy"),
            (["seed=-1"], RecipeError, "seed must be a whole number of at least 0"),
            (["data.standardize=perhaps"], RecipeError, "data.standardize: Value 'perhaps' is not a valid bool"),
            (["aux.weight=light"], RecipeError, "aux.weight: Value 'light' of type 'str' could not be converted"),
            (["data.batch_size=null"], RecipeError, "data.batch_size: "),
            (["trainer=null"], RecipeError, "group override must be a string"),
        ],
    )
    def test_pretrain(self, recipe, tmp_path, overrides, error, message):
        with pytest.raises(error, match=message):
            pretrain(recipe("pretrain", *overrides))
        assert not (tmp_path / "run").exists()

    def test_keys_of_one_s_own_are_left_alone(self, recipe):
        assert not hasattr(parse_recipe(PretrainRecipe, recipe("pretrain", "+mine=3", "+data.mine=3")).data, "mine")

    @pytest.mark.parametrize(("kind", "command"), [(PretrainRecipe, "pretrain"), (FinetuneRecipe, "finetune")])
    def test_a_key_that_an_old_checkpoint_lacks_has_the_default_of_the_recipe_files(self, kind, command):
        def differing(section):
            for entry in dataclasses.fields(section):
                value = getattr(section, entry.name)
                if dataclasses.is_dataclass(value):
                    yield from differing(value)
                elif entry.default is not dataclasses.MISSING and entry.default != value:
                    yield entry.name

        config = compose_recipe(command)
        assert not list(differing(parse_recipe(kind, config)))
        # Sections that came later.
        later = ("identify", "self_training")
        parse_recipe(kind, OmegaConf.masked_copy(config, [key for key in config if key not in later]))

    def test_finetune_without_a_checkpoint(self, recipe, tmp_path):
        with pytest.raises(RecipeError, match="init_from is not set.*scratch"):
            finetune(recipe("finetune", recipe="finetune"))
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("override", ["model=small", "model.dim=64", "model.depth=2"])
    def test_a_model_that_is_not_the_checkpoint_s(self, recipe, pretrained, tmp_path, override):
        with pytest.raises(RecipeError, match=r"last.ckpt holds a model of .*leave model=\.\.\. and"):
            recipe("finetune", f"init_from={pretrained}", override)
        assert not (tmp_path / "run").exists()

    def test_weights_that_are_not_of_the_model_that_the_checkpoint_names(self, recipe, pretrained, tmp_path):
        content = torch.load(pretrained, weights_only=True)
        content["state_dict"] = {name: of for name, of in content["state_dict"].items() if "proc_layers" not in name}
        torch.save(content, tmp_path / "other.ckpt")
        with pytest.raises(CheckpointError, match="another architecture: "):
            finetune(recipe("finetune", f"init_from={tmp_path / 'other.ckpt'}"))
        assert not (tmp_path / "run").exists()

    def test_evaluate_needs_a_fine_tuned_checkpoint(self, pretrained, tmp_path):
        with pytest.raises(CheckpointError, match="not of a fine-tuning run"):
            evaluate(pretrained)
        (tmp_path / "x.ckpt").write_bytes(b"PK\x03\x04 broken")
        with pytest.raises(CheckpointError, match=r"x\.ckpt"):
            evaluate(tmp_path / "x.ckpt")

    def test_a_checkpoint_cannot_name_a_class_to_run(self, finetuned, tmp_path):
        content = read_checkpoint(finetuned.checkpoint)
        model = content["hyper_parameters"]["recipe"]["model"]
        for evil in ({"_target_": "pathlib.Path.touch"}, {"dim": {"_target_": "pathlib.Path.touch"}}):
            content["hyper_parameters"]["recipe"]["model"] = {**model, **evil}
            torch.save(content, tmp_path / "evil.ckpt")
            with pytest.raises(CheckpointError, match=r"pathlib\.Path\.touch.*refused"):
                evaluate(tmp_path / "evil.ckpt")

    def test_a_pickle_is_never_run(self, recipe, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        torch.save({"state_dict": {}, "hyper_parameters": {}, "bomb": Bomb()}, tmp_path / "bomb.ckpt")
        with pytest.raises(CheckpointError, match=r"bomb\.ckpt: refused"):
            finetune(recipe("finetune", f"init_from={tmp_path / 'bomb.ckpt'}"))
        assert not (tmp_path / "exploded").exists()


class TestLoadWeights:
    def test_reports_what_it_took_and_what_not(self):
        size = {"sequence_length": 2.0, "latent_step": 0.5, "dim": 16, "dim_head": 16, "depth": 1}
        a, b = (CalciumPOYO(**size, dim_out=tasks, readout="linear") for tasks in ({"x": 3}, {"x": 3, "y": 2}))
        a.set_vocabs(unit_ids=["u"], session_ids=["s"])
        state = {**a.state_dict(), "extra": torch.zeros(1)}
        report = load_weights(b, state, source="a.ckpt")
        assert report.skipped == {"extra": "not in the model"}
        assert set(report.fresh) == {"readout.projections.y.weight", "readout.projections.y.bias", "readout.queries.y"}
        assert torch.equal(b.readout.projections["x"].weight, a.readout.projections["x"].weight)
        assert list(b.unit_emb.vocab) == ["NA", "u"] and torch.equal(b.unit_emb.weight, a.unit_emb.weight)
        assert "extra (not in the model)" in report.summary()

    @pytest.mark.parametrize(("length", "rows"), [(1.0, slice(1, 3)), (3.0, slice(0, 4))])
    def test_a_temporal_filter_fits_windows_of_another_length(self, length, rows):
        size = {"latent_step": 0.5, "dim": 16, "dim_head": 16, "depth": 1, "dim_out": {"x": 3}, "readout": "linear"}
        a, b = (CalciumPOYO(sequence_length=seconds, **size) for seconds in (2.0, length))
        torch.nn.init.normal_(a.read_in.temporal)
        load_weights(b, a.state_dict(), source="a.ckpt")
        ours, theirs = b.read_in.temporal, a.read_in.temporal[rows, rows]
        if length == 3.0:
            assert torch.equal(ours[[0, 5]], torch.eye(6)[[0, 5]])
            ours = ours[1:5, 1:5]
        assert torch.equal(ours, theirs)


class TestOptimizer:
    def model(self):
        model = CalciumPOYO(
            sequence_length=2.0, latent_step=0.5, dim=16, dim_head=16, depth=1, dim_out={"x": 3}, readout="linear"
        )
        model.set_vocabs(unit_ids=["u"], session_ids=["s"])
        return model

    def test_groups(self):
        model = self.model()
        optimizer = make_optimizer(
            [model], lr=1e-3, unit_lr_factor=10, backbone_lr_factor=0.1, weight_decay=0.5, fresh=("readout",)
        )
        rate = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
        assert rate[id(model.unit_emb.weight)] == (pytest.approx(1e-2), 0.0)
        assert rate[id(model.read_in.spatial.weight)] == (pytest.approx(1e-4), 0.5)
        assert rate[id(model.read_in.patch)] == (pytest.approx(1e-4), 0.0)
        assert rate[id(model.readout.projections["x"].weight)] == (pytest.approx(1e-3), 0.5)
        assert len(rate) == len(list(model.parameters()))

    @pytest.mark.parametrize("name", ["adamw", "lamb"])
    def test_both_optimisers_descend(self, name):
        layer = torch.nn.Linear(4, 1)
        x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        y = x @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
        optimizer = make_optimizer([layer], name=name, lr=0.05, weight_decay=0.0)
        losses = []
        for _ in range(150):
            loss = (layer(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.1 * losses[0]

    @pytest.mark.parametrize("total", [1, 2, 3, 10])
    def test_short_schedules(self, total):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
        schedule = make_schedule(optimizer, total_steps=total, warmup=0.1)
        for _ in range(total):
            assert 0 < optimizer.param_groups[0]["lr"] <= 0.4
            optimizer.step()
            schedule.step()

    def test_the_paper_s_schedule_is_constant_for_half_then_a_cosine(self):
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=0.4)
        schedule = make_schedule(optimizer, total_steps=100, warmup=0.5, start_factor=1.0)
        rates = []
        for _ in range(100):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step() if len(rates) < 100 else None
        assert rates[:50] == pytest.approx([0.4] * 50)
        assert rates[75] == pytest.approx(0.5 * 0.4) and rates[-1] < 1e-3
