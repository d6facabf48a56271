"""The decoder in scikit-learn's way: its contract, pipelines, recordings, pretrained weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from poyo_ssl_plugin import CalciumPOYO, PopulationDecoder, Recordings
from poyo_ssl_plugin.data import find_trials, fit_task, get_task, simulate, trial_windows
from poyo_ssl_plugin.data.importing import recording_from_arrays, recording_from_spikes, save_recording
from poyo_ssl_plugin.data.splits import recorded_split
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.population_decoder import EXPECTED_FAILURES

PAGE = Path(__file__).parents[1] / "docs" / "own_loop.md"


@pytest.mark.parametrize(("kind", "max_steps", "lr"), [("classification", 4, 1e-2), ("regression", 10, 3e-2)])
def test_the_contract_of_scikit_learn(kind, max_steps, lr):
    """It trains some sixty decoders, so they are small and soon trained."""
    decoder = PopulationDecoder(kind=kind, max_steps=max_steps, lr=lr, dim=16)
    check_estimator(decoder, expected_failed_checks=EXPECTED_FAILURES, on_skip=None)


@pytest.fixture(scope="module")
def arrays():
    """Windows (R, N, T) of two classes that differ in which neurons rise, and when."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    response = rng.normal(size=(3, 12, 20))
    return (0.5 * response[y] + rng.normal(size=(90, 12, 20))).astype(np.float32), np.array(["a", "b", "c"])[y]


class TestArrays:
    def test_it_tells_classes(self, arrays):
        x, y = arrays
        decoder = PopulationDecoder(max_steps=20, random_state=0).fit(x[:60], y[:60])
        assert decoder.score(x[60:], y[60:]) > 0.8
        assert decoder.predict_proba(x[60:]).sum(axis=1) == pytest.approx(1.0)
        assert list(decoder.classes_) == ["a", "b", "c"]
        assert decoder.transform(x).shape == (90, len(decoder.get_feature_names_out()))

    def test_flat_windows_are_the_same(self, arrays):
        x, y = arrays
        one = PopulationDecoder(max_steps=2, random_state=0).fit(x, y)
        other = PopulationDecoder(max_steps=2, random_state=0, n_times=20).fit(x.reshape(90, -1), y)
        np.testing.assert_array_equal(one.transform(x), other.transform(x.reshape(90, -1)))

    def test_it_joins_pipelines_and_cross_validation(self, arrays):
        x, y = arrays
        pipeline = make_pipeline(StandardScaler(), PopulationDecoder(max_steps=5, n_times=20, random_state=0))
        assert cross_val_score(pipeline, x.reshape(90, -1), y, cv=3).mean() > 0.6

    def test_it_tells_several_numbers(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(120, 6, 10)).astype(np.float32)
        y = x.mean(axis=2)[:, :2] * [1.0, 100.0] + [0.0, 50.0]
        decoder = PopulationDecoder(kind="regression", max_steps=50, lr=1e-2, random_state=0).fit(x[:90], y[:90])
        assert decoder.predict(x).shape == (120, 2) and decoder.score(x[90:], y[90:]) > 0.5
        assert not hasattr(decoder, "predict_proba")

    def test_global_randomness_is_left_alone(self, arrays):
        torch.manual_seed(1)
        expected = torch.rand(3)
        torch.manual_seed(1)
        PopulationDecoder(max_steps=1, random_state=0).fit(*arrays)
        torch.testing.assert_close(torch.rand(3), expected)

    def test_what_does_not_fit(self, arrays):
        x, y = arrays
        decoder = PopulationDecoder(max_steps=0, random_state=0).fit(x, y)
        with pytest.raises(
            ValueError, match=r"windows of \(12, 10\) neurons and samples, and was fitted to \(12, 20\)"
        ):
            decoder.predict(x[:, :, :10])
        with pytest.raises(ValueError, match="no multiple of n_times=7"):
            PopulationDecoder(n_times=7).fit(x.reshape(90, -1), y)

    @pytest.mark.parametrize(
        ("argument", "message"),
        [
            ({"kind": "clustering"}, "kind must be"),
            ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
            ({"max_steps": 2.5}, "max_steps must be a whole number of at least 0, not 2.5"),
            ({"unit_dropout": 1.0}, "unit_dropout must be at least 0 and below 1, not 1.0"),
            ({"device": "abacus"}, "device='abacus' cannot be used"),
        ],
    )
    def test_arguments_that_are_refused(self, arrays, argument, message):
        with pytest.raises(PoyoSSLError, match=message):
            PopulationDecoder(**argument).fit(*arrays)


class TestPretrained:
    @pytest.fixture
    def folder(self, tmp_path):
        torch.manual_seed(0)
        model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, dim_out=1, dim=16, depth=1, dim_head=8, patch_size=5)
        model.set_vocabs(unit_ids=["other/0"], session_ids=["other"])
        return model.save_pretrained(tmp_path / "pretrained")

    def test_shared_weights_are_taken_and_neurons_are_new(self, arrays, folder):
        decoder = PopulationDecoder(init_from=folder, max_steps=0, random_state=0).fit(*arrays)
        pretrained, model = CalciumPOYO.from_pretrained(folder), decoder.model_
        torch.testing.assert_close(
            model.proc_layers[0][0].to_out[0].weight, pretrained.proc_layers[0][0].to_out[0].weight
        )
        assert len(model.unit_emb.vocab) == 13 and model.dim == 16

    def test_neurons_are_identified_first(self, arrays, folder):
        vectors = [
            PopulationDecoder(init_from=folder, identify_steps=steps, max_steps=0, random_state=0).fit(*arrays).model_
            for steps in (0, 5)
        ]
        assert not torch.equal(vectors[0].unit_emb.weight, vectors[1].unit_emb.weight)
        torch.testing.assert_close(vectors[0].read_in.spatial.weight, vectors[1].read_in.spatial.weight)


class TestRecordings:
    def test_windows_are_the_traces_around_trials(self, sim_dir):
        dataset, task = Recordings(sim_dir, ["sim_000"]), get_task("drifting_gratings")
        traces, label = trial_windows(dataset, task, window_length=1.0)
        data = dataset.get_recording("sim_000")
        trials = find_trials(data, task, "train").that_fit(1.0)
        assert traces.shape == (len(trials), 20, 30) and (label == trials.label).all()
        row = int(np.ceil((trials.centre[3] - 0.5) * 30 - 1e-6))
        np.testing.assert_allclose(traces[3].T, np.asarray(data.calcium_traces.df_over_f)[row : row + 30], rtol=1e-6)

    def test_a_series_is_in_its_own_units(self, sim_dir):
        dataset = Recordings(sim_dir, ["sim_000"])
        _, speed = trial_windows(dataset, "running", split="test")
        data = dataset.get_recording("sim_000")
        centre = find_trials(data, fit_task(get_task("running"), dataset, recorded_split(dataset)["train"]), "test")
        at, recorded = np.asarray(data.running.timestamps), np.asarray(data.running.running_speed)[:, 0]
        expected = np.interp(centre.that_fit(2.0).centre, at, recorded)
        np.testing.assert_allclose(speed, expected, atol=1e-4)

    def test_several_recordings_are_refused(self, sim_dir):
        with pytest.raises(RecordingError, match="has 3 recordings"):
            PopulationDecoder().fit(sim_dir, "drifting_gratings")

    @pytest.mark.parametrize(
        ("task", "window_length", "message"),
        [
            ("{name: side", 2.0, "is not YAML"),
            ({"name": "cre", "source": "trials", "label": "side", "labels_per_class": 2}, 2.0, "trials.side is text"),
            ({"name": "x", "source": "trials", "label": "side", "kind": "frames"}, 2.0, "task=natural_movie_frames"),
            (
                {"name": "side", "source": "trials", "label": "side"},
                0.01,
                "a window of 0.01 s holds no sample at 10 Hz",
            ),
        ],
    )
    def test_tasks_and_windows_that_cannot_be(self, tmp_path, traces, task, window_length, message):
        trials = {"start": np.arange(20) * 3.0, "end": np.arange(20) * 3.0 + 2, "side": ["l", "r"] * 10}
        save_recording(recording_from_arrays(traces, recording="a", sampling_rate=10.0, trials=trials), tmp_path)
        with pytest.raises(PoyoSSLError, match=message):
            PopulationDecoder(window_length=window_length).fit(tmp_path, task)

    def test_spikes_have_no_windows_of_traces(self, tmp_path):
        trials = {"start": np.arange(20) * 3.0, "end": np.arange(20) * 3.0 + 2, "side": ["l", "r"] * 10}
        data = recording_from_spikes(np.arange(62.0), np.zeros(62, int), recording="a", unit_ids=["x"], trials=trials)
        save_recording(data, tmp_path)
        with pytest.raises(RecordingError, match="recording a: has no 'calcium_traces.df_over_f'"):
            PopulationDecoder().fit(tmp_path, {"name": "side", "source": "trials", "label": "side"})

    def test_the_page_s_script(self, tmp_path, monkeypatch, capsys):
        """With fewer steps than the defaults, for time's sake."""
        monkeypatch.setitem(PopulationDecoder.__init__.__kwdefaults__, "max_steps", 20)
        monkeypatch.chdir(tmp_path)
        simulate("recordings", n_recordings=1, n_units=40, minutes=7, cre_lines=["Cux2_CreERT2"], seed=1)
        [script] = [s for s in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "PopulationDecoder" in s]
        exec(compile(script, "docs/own_loop.md", "exec"), {"__name__": "__main__"})
        values = [float(text) for text in re.findall(r"\d\.\d+", capsys.readouterr().out)]
        assert len(values) == 2 and min(values) > 2 / 8
