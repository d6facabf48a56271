"""Regressions from end to end: targets, losses, R2, references, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from quick import quick

from poyo_ssl_plugin.compare.arms import get_arm, in_recipe
from poyo_ssl_plugin.compare.comparison import run_comparison
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.references import ridge
from poyo_ssl_plugin.compare.report import report_comparison
from poyo_ssl_plugin.compare.results import to_json
from poyo_ssl_plugin.compare.single_run import run_evaluation, run_finetuning
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import get_task
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.training import FinetuneRecipe, decoding_of, parse_recipe, prepare_finetuning, pretrain
from poyo_ssl_plugin.training.finetuning import KnownR2

SPEED = "{name: speed, source: running, label: running_speed, kind: regression}"
BLOCK = "{name: tempo, source: drifting_gratings, label: temporal_frequency_id}"


def recipe(command, sim_dir, table_path, out_dir, *overrides, steps=3):
    place = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={out_dir}", "diet=all"]
    return compose_recipe(command, None, [*quick(steps=steps), *place, *overrides])


class TestFinetuning:
    @pytest.fixture(scope="class")
    @staticmethod
    def done(sim_dir, table_path, tmp_path_factory, unrendered):
        out_dir = tmp_path_factory.mktemp("speed")
        config = recipe("finetune", sim_dir, table_path, out_dir, f"task={SPEED}", "init_from=null", "seeds=[0]")
        with unrendered():
            return out_dir, run_finetuning(config)

    def test_results_name_the_measure(self, done):
        _, summary = done
        [arm] = summary.arms.values()
        assert (summary.task, summary.kind, summary.chance, arm.metric) == ("speed", "regression", 0.0, "R2")
        assert summary.measured.name == "R2" and set(summary.baselines) == {"ridge regression"}
        json.dumps(to_json(summary), allow_nan=False)

    def test_predictions_are_in_the_units_of_the_series(self, done, dataset):
        rows = done[1].predictions[0]
        for row in rows[:5]:
            running = dataset.get_recording(row["recording_id"]).running
            at = np.asarray(running.timestamps)
            [label] = row["label"]
            assert label == pytest.approx(np.interp(row["time"], at, np.asarray(running.running_speed)[:, 0]), abs=1e-2)

    def test_r2_is_that_of_scikit_learn(self, done):
        from sklearn.metrics import r2_score

        [arm] = done[1].arms.values()
        rows = done[1].predictions[0]
        values, counts = [], []
        for name in {row["recording_id"] for row in rows}:
            pairs = [(row["label"], row["prediction"]) for row in rows if row["recording_id"] == name]
            values.append(r2_score(*zip(*pairs, strict=True)))
            counts.append(len(pairs))
        assert arm.runs[0].value == pytest.approx(np.average(values, weights=counts))

    def test_a_checkpoint_is_tested_without_its_training_labels(self, done):
        out_dir, summary = done
        again = run_evaluation(next((out_dir / "seed0").rglob("last.ckpt")))
        assert again.arms["checkpoint"].mean == pytest.approx(summary.arms["scratch"].mean, abs=1e-4)

    def test_it_learns_what_neurons_tell(self, sim_dir, table_path, tmp_path, unrendered):
        """A target that is a neuron's own activity, written into the recordings as running speed."""
        import shutil

        import h5py

        shutil.copytree(sim_dir, tmp_path / "told")
        for path in (tmp_path / "told").glob("*.h5"):
            with h5py.File(path, "r+") as file:
                traces = file["calcium_traces/df_over_f"][:, :3].mean(axis=1)
                smooth = np.convolve(traces, np.ones(15) / 15, mode="same")
                series = file["running/running_speed"]
                series[...] = np.interp(np.linspace(0, 1, len(series)), np.linspace(0, 1, len(smooth)), smooth)[:, None]
        options = [f"task={SPEED}", "init_from=null", "seeds=[0]", "data.batch_size=32"]
        config = recipe("finetune", tmp_path / "told", table_path, tmp_path / "out", *options, steps=80)
        with unrendered():
            summary = run_finetuning(config)
        assert summary.arms["scratch"].mean > 0.2
        assert summary.baselines["ridge regression"].value > 0.4


def test_a_comparison_of_a_series(sim_dir, tmp_path, unrendered):
    runs = tuple(quick("diet=all", steps=2))
    comparison = Comparison(
        str(sim_dir), str(tmp_path), task="running", arms=("scratch", "pretrained"), held_out=("sim_002",),
        seeds=(0,), processes=1, pretrain=tuple(quick(steps=2)), finetune=runs,
    )  # fmt: skip
    with unrendered():
        summary = report_comparison(comparison, title="Speed")
    assert set(summary.arms) == {"scratch", "pretrained"} and set(summary.baselines) == {"ridge regression"}
    page = (tmp_path / "report.html").read_text()
    assert "R2" in page and "log-loss" not in page


def test_a_comparison_of_a_declared_classification(sim_dir, tmp_path):
    """Also with an arm that is pretrained on its labels."""
    few = tuple(quick(steps=2))
    comparison = Comparison(
        str(sim_dir), str(tmp_path), task=BLOCK, arms=("scratch", "supervised"), held_out=("sim_002",), seeds=(0,),
        processes=1, pretrain=few, finetune=(*few, "diet=all"),
    )  # fmt: skip
    summary = run_comparison(comparison).summary
    assert (summary.task, summary.kind, summary.chance) == ("tempo", "classification", 1 / 5)
    assert summary.pretraining[0].metrics["valid/auxiliary"] > 0


class TestMeasure:
    @pytest.fixture
    def decoding(self):
        return decoding_of(parse_recipe(FinetuneRecipe, compose_recipe("finetune", None, ["task=running"])))

    def rows(self, label, prediction, recording="a"):
        pairs = zip(label, prediction, strict=True)
        return [
            {"recording_id": recording, "time": 4.0 * i, "label": [y], "prediction": [z]}
            for i, (y, z) in enumerate(pairs)
        ]

    def test_a_recording_s_own_mean_is_worth_nothing(self, decoding):
        result = decoding.test_result(
            self.rows([0.0, 2.0, 0.0, 2.0], [1.0] * 4) + self.rows([10.0, 12.0], [11.0] * 2, "b")
        )
        assert result.value == pytest.approx(0.0) and result.n_test == 6
        assert result.names == ["a/0", "a/1", "b/0"] and len(result.trials) == 3

    def test_blocks_count_by_their_moments(self, decoding):
        """So the mean over blocks is R2, and a difference of arms is that of their R2."""
        result = decoding.test_result(self.rows([0.0, 2.0, 0.0, 2.0], [0.0, 2.0, 0.0, 0.0]))
        assert result.names == ["a/0", "a/1"] and result.trials == pytest.approx([1.5, -1.5])
        assert result.value == pytest.approx(np.mean(result.trials)) == 0.0

    def test_targets_that_do_not_vary(self, decoding):
        with pytest.raises(RecordingError, match="do not vary"):
            decoding.test_result(self.rows([1.0, 1.0], [1.0, 2.0]))

    def test_unknown_targets_do_not_count(self):
        metric = KnownR2()
        metric.update(torch.tensor([[1.0], [2.0], [9.0]]), torch.tensor([[1.0], [2.5], [float("nan")]]))
        other = KnownR2()
        other.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [2.5]]))
        assert metric.compute() == other.compute() and KnownR2().compute().isnan()

    def test_an_unknown_loss(self, sim_dir, table_path, tmp_path):
        options = ["task=running", "init_from=null", "seeds=[0]", "regression_loss=cosine"]
        with pytest.raises(RecipeError, match="regression_loss must be smooth_l1, mse or l1, not 'cosine'"):
            run_finetuning(recipe("finetune", sim_dir, table_path, tmp_path, *options))


def test_ridge_finds_a_linear_relation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 10))
    y = x @ rng.normal(size=(10, 2))
    assert np.abs(ridge(x[:150], y[:150], x[150:]) - y[150:]).max() < 0.3


class TestAuxiliaryLoss:
    def test_a_declared_classification(self, sim_dir, table_path, tmp_path):
        result = pretrain(recipe("pretrain", sim_dir, table_path, tmp_path, f"aux.task={BLOCK}"))
        assert result.metrics["valid/auxiliary"] > 0

    def test_a_regression_is_refused(self, sim_dir, table_path, tmp_path):
        with pytest.raises(RecipeError, match="aux.task=running is a regression"):
            pretrain(recipe("pretrain", sim_dir, table_path, tmp_path, "aux.task=running"))

    def test_arms_that_learn_the_decoded_labels_name_a_declared_task(self):
        task = get_task(BLOCK)
        overrides = get_arm("supervised").pretraining([], task)
        assert f"aux.task={in_recipe(task)}" in overrides
        assert get_task(compose_recipe("pretrain", None, overrides).aux.task) == task


class TestCountsAsTraces:
    def test_a_model_of_traces_reads_spikes(self, spike_dir, spike_table_path, tmp_path, unrendered):
        spikes = ["data.field=spikes", "model.patch_size=2"]
        before = pretrain(recipe("pretrain", spike_dir, spike_table_path, tmp_path / "a", *spikes))
        options = [*spikes, f"init_from={before.checkpoint}", "seeds=[0]", "allow_leak=true"]
        with unrendered():
            summary = run_finetuning(recipe("finetune", spike_dir, spike_table_path, tmp_path / "b", *options))
        assert 0 <= summary.arms["pretrained"].mean <= 1 and "template" in summary.baselines

    def test_they_are_compared(self, spike_dir, tmp_path):
        few = tuple(quick("model.patch_size=2", "diet=all", steps=2))
        comparison = Comparison(
            str(spike_dir), str(tmp_path), field="spikes", arms=("scratch", "pretrained"), held_out=("sim_002",),
            seeds=(0,), processes=1, pretrain=few, finetune=few,
        )  # fmt: skip
        assert "softmax regression" in run_comparison(comparison).summary.baselines

    def test_its_samples_are_the_counts(self, spike_dir, spike_table_path):
        config = recipe("finetune", spike_dir, spike_table_path, "unused", "data.field=spikes", "model.patch_size=1",
                        "init_from=null", "data.standardize=false")  # fmt: skip
        run = prepare_finetuning(config)
        batch = next(iter(run.data.test_dataloader()))
        data = run.data.dataset.get_recording(batch["recording_id"][0])
        units, times = np.asarray(data.spikes.unit_index), np.asarray(data.spikes.timestamps)
        start = float(batch["start"][0])
        inside = (times >= start) & (times < start + 2.0)
        assert float(batch["inputs"]["input_values"][0].sum()) == inside.sum() and len(np.unique(units)) > 1

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (["data.field=spikes", "data.bin_width=0.05"], "score with --field spikes --bin-width 0.05"),
            (["data.field=lfp"], "data.field must be spikes"),
            (["data.field=spikes", "data.bin_width=0"], "data.bin_width must be a positive"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, spike_dir, spike_table_path, tmp_path, overrides, message):
        with pytest.raises(RecipeError, match=message):
            pretrain(recipe("pretrain", spike_dir, spike_table_path, tmp_path, *overrides))
