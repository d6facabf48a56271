from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from poyo_ssl_plugin.experiments.compare import Comparison, run_comparison
from poyo_ssl_plugin.experiments.demo import comparison_from_overrides, report_comparison
from poyo_ssl_plugin.experiments.jobs import run_jobs
from poyo_ssl_plugin.experiments.report import verdict
from quick import quick
from scipy import stats

from poyo_ssl_plugin.compare.references import Decoded, run_baselines, trial_means
from poyo_ssl_plugin.compare.statistics import binomial_interval, estimate, paired_difference
from poyo_ssl_plugin.data import Recordings, find_trials, get_task, simulate
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.files import atomic_path, write_json
from poyo_ssl_plugin.predictability import Diet, make_diet, score_dataset
from poyo_ssl_plugin.recordings import open_signal

GRATINGS = get_task("drifting_gratings")


class TestStatistics:
    def test_the_interval_is_student_s(self):
        x = [0.4, 0.55, 0.5, 0.61]
        low, high = stats.t.interval(0.95, 3, np.mean(x), stats.sem(x))
        assert (estimate(x).low, estimate(x).high) == (pytest.approx(low), pytest.approx(high))

    def test_pairs(self):
        difference = paired_difference([0.5, 0.7, 0.9], [0.4, 0.5, 0.8])
        assert difference.mean == pytest.approx(0.4 / 3) and difference.low < difference.mean < difference.high

    def test_wilson(self):
        expected = stats.binomtest(45, 60).proportion_ci(method="wilson")
        assert binomial_interval(45, 60) == (pytest.approx(expected.low), pytest.approx(expected.high))


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
        from poyo_ssl_plugin.experiments import baselines

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


def count(job):
    with (Path(job["folder"]).parent / "count").open("a") as file:
        file.write(".")
    if job.get("fail"):
        raise RuntimeError("on purpose")
    return {"double": 2 * job["n"]}


class TestJobs:
    def jobs(self, folder, **further):
        return [{"folder": str(folder / f"job{n}"), "n": n, **further} for n in range(3)]

    @pytest.mark.parametrize("processes", [1, 2])
    def test_results_in_order_and_finished_jobs_once(self, tmp_path, processes):
        for _ in range(2):
            results = run_jobs(count, self.jobs(tmp_path), processes=processes)
            assert [r["double"] for r in results] == [0, 2, 4]
        assert (tmp_path / "count").read_text() == "..."

    def test_a_changed_job_is_done_again(self, tmp_path):
        run_jobs(count, self.jobs(tmp_path), processes=1)
        run_jobs(count, self.jobs(tmp_path, steps=5), processes=1)
        assert len((tmp_path / "count").read_text()) == 6

    def test_a_failed_job_is_not_taken_for_done(self, tmp_path):
        with pytest.raises(RuntimeError, match="on purpose"):
            run_jobs(count, self.jobs(tmp_path, fail=True), processes=1)
        assert not (tmp_path / "job0" / "job.json").exists()


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


QUICK = quick(steps=3)


class TestCompare:
    def comparison(self, sim_dir, out, **options) -> Comparison:
        options = {"seeds": (0, 1), "pretrain": QUICK, "finetune": QUICK, "processes": 1, **options}
        return Comparison(root=str(sim_dir), out_dir=str(out), **options)

    def test_held_out_animals(self, sim_dir, tmp_path):
        comparison = self.comparison(sim_dir, tmp_path, held_out=("sim_002",))
        summary = report_comparison(comparison, title="Test & <report>")
        assert summary == json.loads((tmp_path / "results.json").read_text())
        assert summary["neurons"]["pretrained_on_recordings"] == ["sim_000", "sim_001"]
        assert summary["neurons"]["decoded_recordings"] == ["sim_002"]
        for arm in ("pretrained", "scratch"):
            runs = summary["arms"][arm]["runs"]
            assert [run["seed"] for run in runs] == [0, 1]
            assert summary["arms"][arm]["mean"] == pytest.approx(np.mean([run["value"] for run in runs]))
        assert summary["recipes"]["finetune"]["model"]["dim"] == 32 and summary["versions"]["torch"]
        page = (tmp_path / "report.html").read_text()
        assert "Test &amp; &lt;report&gt;" in page and page.count("data:image/png;base64,") == 5
        # Nothing is fetched from elsewhere.
        assert "://" not in page
        assert f"{summary['arms']['scratch']['mean']:.3f}" in page

        # A second start finds everything done; another seed is all that a third one runs.
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("job.json")}
        again = report_comparison(comparison, title="again")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("job.json")} == before
        assert again["arms"] == summary["arms"]

    def test_folds(self, sim_dir, tmp_path):
        comparison = self.comparison(
            sim_dir, tmp_path, recordings=("sim_000",), task="natural_movie", folds=2, seeds=(0,)
        )
        summary = report_comparison(comparison, title="folds")
        runs = summary["arms"]["pretrained"]["runs"]
        assert [run["fold"] for run in runs] == [0, 1] and len(summary["pretraining"]) == 2
        n_repeats = len(np.unique(Recordings(sim_dir).get_recording("sim_000").natural_movie_one.repeat))
        assert sum(run["n_test"] for run in runs) == 30 * n_repeats

    def test_bad_settings(self, sim_dir, tmp_path):
        with pytest.raises(RecipeError, match="held_out names sim_9"):
            report_comparison(self.comparison(sim_dir, tmp_path, held_out=("sim_9",)), title="")
        with pytest.raises(RecipeError, match="held_out leaves no recording"):
            report_comparison(self.comparison(sim_dir, tmp_path, held_out=("sim_000", "sim_001", "sim_002")), title="")
        with pytest.raises(RecipeError, match="unknown key 'nonsense'"):
            report_comparison(self.comparison(sim_dir, tmp_path, finetune=("nonsense=1",)), title="")
        assert list(tmp_path.iterdir()) == []

    def test_overrides(self):
        comparison, recordings = comparison_from_overrides(
            ["root=a", "recordings=[1,2]", "pretrain=[trainer.max_steps=5,model=tiny]", "folds=5"]
        )
        assert recordings == {}
        assert comparison.recordings == ("1", "2") and comparison.pretrain == ("trainer.max_steps=5", "model=tiny")
        with pytest.raises(RecipeError, match="root is not set"):
            comparison_from_overrides([])


@pytest.mark.parametrize(
    ("ci", "p_holm", "words"),
    [
        ([0.02, 0.1], 0.01, "Pretraining helped, by +12 %"),
        ([0.02, 0.1], 0.06, "Pretraining seems to help, but not beyond"),
        ([-0.1, -0.02], 0.01, "Pretraining hurt"),
        ([-0.1, 0.1], 0.8, "do not tell whether pretraining helped"),
    ],
)
def test_the_verdict_says_what_the_numbers_support(ci, p_holm, words):
    gain = {"mean": sum(ci) / 2, "ci95": ci, "relative_gain": 0.12}
    against = {**gain, "relative_ci95": None, "p_holm": p_holm, "n": 3}
    summary = {
        "arms": {"pretrained": {"mean": 0.56, "versus_scratch": against}, "scratch": {"mean": 0.5}},
        "chance": 0.125,
        "pretrained_minus_scratch": gain,
        "baselines": {"template": {"value": 0.6}},
    }
    assert words in verdict(summary) and "not above the best simple decoder (template, 0.600)" in verdict(summary)
