"""Simple decoders, and files that are whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest
from quick import quick

from poyo_ssl_plugin.compare.comparison import run_comparison
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.references import Decoded, run_baselines, trial_means
from poyo_ssl_plugin.data import Recordings, find_trials, get_task, simulate
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.files import atomic_path, write_json
from poyo_ssl_plugin.predictability import Diet, make_diet, score_dataset
from poyo_ssl_plugin.recordings import open_signal

GRATINGS = get_task("drifting_gratings")
QUICK = quick(steps=3)


class TestBaselines:
    def test_trial_means(self, dataset):
        data = dataset.get_recording("sim_000")
        trials = find_trials(data, GRATINGS, "test")
        keep = np.arange(20) % 2 == 0
        rows = np.round(trials.start * 30).astype(int)
        expected = np.stack([data.calcium_traces.df_over_f[row : row + 60].mean(axis=0) for row in rows])[:, keep]
        np.testing.assert_allclose(trial_means(open_signal(data), trials, keep), expected, rtol=1e-5)

    def test_rates_of_spikes(self, spike_dir):
        data = Recordings(spike_dir).get_recording("sim_000")
        trials = find_trials(data, GRATINGS, "test")
        signal = open_signal(data, "spikes")
        keep = np.arange(len(signal.unit_ids)) % 2 == 0
        found = trial_means(signal, trials, keep)
        times, units = np.asarray(data.spikes.timestamps), np.asarray(data.spikes.unit_index)
        first = np.bincount(units[(times >= trials.start[0]) & (times < trials.end[0])], minlength=len(keep))[keep]
        assert found.shape == (len(trials), keep.sum()) and found.any()
        np.testing.assert_allclose(found[0], first / (trials.end[0] - trials.start[0]))

    def test_spikes_alone_are_compared_from_scores_to_baselines(self, spike_dir, tmp_path):
        sizes = ["model=poyo", *(text for text in QUICK if not text.startswith("model="))]
        sizes += [
            f"model.{key}={value}" for key, value in {"dim": 16, "dim_head": 8, "depth": 1, "self_heads": 2}.items()
        ]
        result = run_comparison(
            Comparison(
                str(spike_dir), str(tmp_path), held_out=("sim_002",), field="spikes", seeds=(0,), processes=1,
                pretrain=sizes, finetune=sizes,
            )
        )  # fmt: skip
        assert result.table.provenance["field"] == "spikes"
        assert set(result.summary["baselines"]) == {"linear decoder", "template"}
        assert set(result.summary["arms"]) == {"pretrained", "scratch"}

    def test_on_many_neurons_they_are_well_above_chance(self, tmp_path):
        folder = simulate(tmp_path, n_recordings=1, n_units=150, minutes=14, cre_lines=["Cux2_CreERT2"], seed=0)
        dataset = Recordings(folder)
        diet = Diet.everything(score_dataset(dataset))
        scores = run_baselines(dataset, diet, GRATINGS, recorded_split(dataset))
        assert set(scores) == {"linear decoder", "template"}
        for decoded in scores.values():
            assert decoded.accuracy > 3 / 8
            assert decoded.n == len(find_trials(dataset.get_recording("sim_000"), GRATINGS, "test"))

    def test_labels_that_mean_nothing_give_chance(self, dataset, table, monkeypatch):
        from poyo_ssl_plugin.compare import references as baselines

        rng = np.random.default_rng(0)

        def shuffled(*args):
            trials = find_trials(*args)
            return type(trials)(trials.start, trials.end, rng.permutation(trials.label), trials.bounds)

        monkeypatch.setattr(baselines, "find_trials", shuffled)
        total = Decoded(0, 0)
        for _ in range(10):
            total += run_baselines(dataset, Diet.everything(table), GRATINGS, recorded_split(dataset))["linear decoder"]
        assert total.accuracy == pytest.approx(1 / 8, abs=0.06)

    def test_the_template_baseline_of_the_real_session(self, real_dir):
        """The published way of decoding it names the second in about 0.6 of the cases from these neurons."""
        from poyo_ssl_plugin.data.splits import repeat_fold

        dataset = Recordings(real_dir, ["501574836"])
        diet = make_diet(score_dataset(dataset), "unpredictable")
        total = Decoded(0, 0)
        for fold in range(10):
            split = repeat_fold(dataset, "natural_movie_one", fold, 10)
            total += run_baselines(dataset, diet, get_task("natural_movie"), split)["template"]
        assert total.n == 300 and total.accuracy == pytest.approx(0.64, abs=0.08)


class TestFiles:
    def test_all_or_nothing(self, tmp_path):
        write_json(tmp_path / "a.json", {"a": 1})
        with pytest.raises(ValueError), atomic_path(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise ValueError
        assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    def test_json_has_no_nan(self, tmp_path):
        with pytest.raises(ValueError):
            write_json(tmp_path / "a.json", {"a": float("nan")})
        assert list(tmp_path.iterdir()) == []
