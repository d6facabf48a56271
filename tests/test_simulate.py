from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from poyo_ssl_plugin import compat
from poyo_ssl_plugin.compare.references import template
from poyo_ssl_plugin.data import Recordings, simulate
from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.predictability import skewness_kurtosis
from poyo_ssl_plugin.simulation import MOVIE_FRAMES, make_movie, make_recording, neurons, oracle_accuracy
from poyo_ssl_plugin.simulation.calibration import REFERENCE, measure_population


def quartiles(x: np.ndarray) -> np.ndarray:
    return np.quantile(x, [0.25, 0.5, 0.75])


def noise_level(x: np.ndarray) -> np.ndarray:
    """Standard deviation of white noise, from the median step between frames."""
    return 1.4826 * np.median(np.abs(np.diff(x, axis=0)), axis=0) / np.sqrt(2)


def event_rate(x: np.ndarray, rate: float) -> np.ndarray:
    """Upward crossings per second of the baseline plus three noise levels, after 0.2 s of smoothing."""
    width = max(1, round(0.2 * rate))
    total = np.cumsum(np.vstack([np.zeros((1, x.shape[1])), x]), axis=0)
    smooth = (total[width:] - total[:-width]) / width
    above = smooth > np.median(smooth, axis=0) + 3 * noise_level(x)
    return (np.diff(above.astype(int), axis=0) == 1).sum(axis=0) / (len(x) / rate)


def test_the_layout_is_that_of_the_stock_pipeline(dataset):
    data = dataset.get_recording("sim_000")
    data.materialize()
    parts = "brainset subject session device calcium_traces rois running simulation drifting_gratings "
    parts += "natural_movie_one natural_movie_three "
    parts += "drifting_gratings_domain natural_movie_one_domain natural_movie_three_domain spontaneous_domain "
    assert set(f"{parts} train_domain valid_domain test_domain".split()) <= set(data.keys())
    plane = {f"imaging_plane_{name}" for name in ("xy", "area", "width", "height")}
    assert set(data.rois.keys()) == {"id", *plane}
    gratings = data.drifting_gratings
    shown = "start end timestamps temporal_frequency orientation orientation_id temporal_frequency_id"
    assert set(gratings.keys()) == set(shown.split())
    np.testing.assert_array_equal(gratings.orientation, 45.0 * gratings.orientation_id)
    np.testing.assert_array_equal(
        gratings.temporal_frequency, np.array([1, 2, 4, 8, 15])[gratings.temporal_frequency_id]
    )
    assert set(data.natural_movie_one.keys()) == {"start", "end", "timestamps", "frame", "repeat"}
    assert gratings.orientation_id.dtype == data.natural_movie_one.frame.dtype == np.int64
    assert data.calcium_traces.df_over_f.dtype == np.float32 and data.running.running_speed.ndim == 2
    assert data.subject.cre_line == "Cux2_CreERT2" and data.device.recording_tech == "TWO_PHOTON_IMAGING"


def test_shares_of_the_splits(tmp_path):
    data = Recordings(simulate(tmp_path, n_recordings=1, n_units=2, minutes=14)).get_recording("sim_000")

    def share(part: str, domain: str) -> float:
        from poyo_ssl_plugin.recordings import intersect_intervals, split_intervals

        times = split_intervals(data, domain)
        both = intersect_intervals(split_intervals(data, part), times)
        return float((both[:, 1] - both[:, 0]).sum() / (times[:, 1] - times[:, 0]).sum())

    gratings = [share(part, "drifting_gratings") for part in ("train", "valid", "test")]
    np.testing.assert_allclose(gratings, [0.7, 0.1, 0.2], atol=0.03)
    for movie in ("natural_movie_one", "natural_movie_three"):
        shares = [share(part, movie) for part in ("train", "valid", "test")]
        np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=1e-6)


def test_the_same_seed_gives_the_same_recordings(sim_dir, tmp_path):
    lines = ["Cux2_CreERT2", "Pvalb_IRES_Cre", "Rorb_IRES2_Cre"]
    again = Recordings(simulate(tmp_path, n_recordings=2, n_units=20, minutes=5, cre_lines=lines, seed=1))
    before = Recordings(sim_dir)
    for name in again.recording_ids:
        a, b = (ds.get_recording(name).calcium_traces.df_over_f for ds in (before, again))
        np.testing.assert_array_equal(a, b)


def test_the_movie_is_stored_with_its_frames(sim_dir):
    with np.load(sim_dir / "natural_movie_one_frames.npz", allow_pickle=False) as file:
        assert file["image"].shape == (MOVIE_FRAMES, 64, 128) and file["image"].dtype == np.uint8
        assert file["frame"].tolist() == list(range(MOVIE_FRAMES))


def test_neurons_respond_to_the_same_second_again():
    movie = make_movie(0)
    data = make_recording("x", "Cux2_CreERT2", 60, 8, movie, np.random.default_rng(0))
    start = data.natural_movie_one.start.reshape(-1, MOVIE_FRAMES)[:, 0]
    rows = np.round(start[:, None] * 30).astype(int) + np.arange(MOVIE_FRAMES)
    response = data.calcium_traces.df_over_f[rows].reshape(len(start), 30, 30, 60).mean(axis=2)
    half = [response[::2].mean(axis=0), response[1::2].mean(axis=0)]
    reliability = [np.corrcoef(half[0][:, i], half[1][:, i])[0, 1] for i in range(60)]
    shuffled = [np.corrcoef(half[0][:, i], np.roll(half[1][:, i], 11))[0, 1] for i in range(60)]
    assert np.mean(reliability) > np.mean(shuffled) + 0.2


def test_bad_arguments(tmp_path):
    with pytest.raises(PoyoSSLError, match="at least 1 recording"):
        simulate(tmp_path, minutes=1)
    with pytest.raises(PoyoSSLError, match="unknown Cre line 'Cux2'; there are Cux2_CreERT2"):
        simulate(tmp_path, cre_lines=["Cux2"])


def like_the_session(minutes: float = 64) -> compat.Data:
    """A simulated recording of the length of session 501574836, of its Cre line."""
    return make_recording("x", "Cux2_CreERT2", 242, minutes, make_movie(50), np.random.default_rng([50, 0]))


def population(data: compat.Data) -> dict[str, float]:
    movie = data.natural_movie_one
    return measure_population(data.calcium_traces.df_over_f.astype(float), 30.0, movie.start[movie.frame == 0])


def outside(found: dict[str, float]) -> list[str]:
    """Measures that are further from the reference than their tolerance."""
    return [name for name, (value, tolerance) in REFERENCE.items() if abs(found[name] - value) > tolerance]


@pytest.fixture(scope="module")
def session() -> compat.Data:
    return like_the_session()


@pytest.fixture(scope="module")
def excitatory(session) -> np.ndarray:
    return session.calcium_traces.df_over_f.astype(float)


class TestCalibration:
    """The calibration to real recordings; not to be loosened for a method's sake."""

    def test_excitatory_neurons(self, excitatory, real_dir):
        real = Recordings(real_dir).get_recording("501574836").calcium_traces.df_over_f.astype(float)
        both = [(*skewness_kurtosis(x), noise_level(x)) for x in (excitatory, real)]
        for name, tolerance, *found in zip(("skewness", "kurtosis", "noise"), (0.25, 0.35, 0.15), *both, strict=True):
            np.testing.assert_allclose(*map(quartiles, found), rtol=tolerance, err_msg=name)
        rates = np.median(event_rate(excitatory, 30.0)), np.median(event_rate(real, 30.03))
        assert 0.5 < rates[0] / rates[1] < 2
        passing = [np.mean((skewness <= 3.51) & (kurtosis <= 22.62)) for skewness, kurtosis, _ in both]
        assert abs(passing[0] - passing[1]) < 0.1

    def test_pvalb_neurons(self, real_data):
        with np.load(real_data / "cell_types" / "traces.npz", allow_pickle=False) as file:
            cells = [file[f"trace_{i:03d}"] for i in np.flatnonzero(file["label"] == "Pvalb")]
        cells = [cell[np.isfinite(cell)] for cell in cells]
        data = make_recording("x", "Pvalb_IRES_Cre", 60, 10, make_movie(0), np.random.default_rng(0))
        x = data.calcium_traces.df_over_f.astype(float)
        for measure in (stats.skew, stats.kurtosis):
            real, low, high = np.median([measure(c) for c in cells]), *np.quantile(measure(x), [0.1, 0.9])
            assert low <= real <= high, measure.__name__

    def test_signal_shape(self, excitatory, real_dir):
        """How slowly traces move: their correlation with themselves 0.4 s later."""
        real = Recordings(real_dir).get_recording("501574836").calcium_traces.df_over_f.astype(float)

        def memory(x: np.ndarray) -> float:
            z = (x - x.mean(axis=0)) / x.std(axis=0)
            return float(np.median((z[12:] * z[:-12]).mean(axis=0)))

        assert memory(excitatory) == pytest.approx(memory(real), abs=0.1)


class TestThresholds:
    """The table of docs/diet.md: how many real single cells pass the paper's thresholds."""

    @pytest.mark.parametrize(("kind", "passing", "cells"), [("Excitatory", 7, 48), ("Pvalb", 4, 4)])
    def test_share_of_gcamp6f_cells_that_pass(self, real_data, kind, passing, cells):
        with np.load(real_data / "cell_types" / "traces.npz", allow_pickle=False) as file:
            traces = [file[f"trace_{i:03d}"] for i in np.flatnonzero(file["label"] == kind)]
        moments = [skewness_kurtosis(trace[np.isfinite(trace)][:, None]) for trace in traces]
        assert len(moments) == cells
        assert sum(bool(skewness[0] <= 3.51 and kurtosis[0] <= 22.62) for skewness, kurtosis in moments) == passing


class TestSharedDynamics:
    def test_the_reference_is_that_of_the_real_session(self, real_dir):
        data = Recordings(real_dir).get_recording("501574836")
        movie, traces = data.natural_movie_one, data.calcium_traces
        first = np.asarray(movie.start)[np.asarray(movie.frame) == 0]
        found = measure_population(traces.df_over_f.astype(float), traces.sampling_rate, first)
        for name, (value, _) in REFERENCE.items():
            assert found[name] == pytest.approx(value, abs=1e-3), name

    def test_covariances_are_those_of_the_real_session(self, session):
        assert outside(population(session)) == []

    def test_without_shared_states_they_are_not(self, monkeypatch):
        alone = replace(neurons.POPULATIONS["sparse"], arousal=(0.0, 0.0), mixed=0.0)
        monkeypatch.setitem(neurons.POPULATIONS, "sparse", alone)
        assert {"noise correlation, mean", "noise correlation, spread"} <= set(
            outside(population(like_the_session(32)))
        )

    def test_a_state_moves_a_neuron_by_its_loading(self):
        drawn = neurons.Neurons.draw(40, 1.0, np.random.default_rng(50))
        state = np.zeros((3000, 6))
        state[1500:, 0] = 4.0
        traces = drawn.respond(state, [], np.random.default_rng(51))
        change = np.log(traces[1800:].mean(axis=0) / traces[300:1500].mean(axis=0))
        assert np.corrcoef(change, drawn.states[:, 0])[0, 1] > 0.8


@pytest.fixture(scope="module")
def decoded_recordings() -> list[compat.Data]:
    """Recordings of an excitatory and of an Sst line."""
    lines, movie = ("Cux2_CreERT2", "Sst_IRES_Cre"), make_movie(50)
    return [make_recording("x", line, 80, 14, movie, np.random.default_rng([50, 5])) for line in lines]


@pytest.fixture(scope="module")
def accuracy(decoded_recordings) -> dict[str, np.ndarray]:
    """Accuracy on the second of the movie of each decoder, in each recording."""
    found = [decode(data) for data in decoded_recordings]
    oracle = [oracle_accuracy(data, "natural_movie", n_draws=30) for data in decoded_recordings]
    return {name: np.array([f[name] for f in found]) for name in found[0]} | {"oracle": np.array(oracle)}


class TestDecoders:
    """How much simple decoders tell, and how much there is to tell."""

    def test_the_oracle_is_the_best(self, accuracy):
        for simple in ("template", "ridge"):
            assert accuracy["oracle"].mean() > accuracy[simple].mean() + 0.04, simple
            assert (accuracy["oracle"] > accuracy[simple]).all(), simple

    def test_whitening_pays_for_interneurons_because_of_shared_states(self, monkeypatch):
        """Measured on seeds 50 to 53: .14, .05, .05, .07, and without states .02, .00, .00, .00."""
        gain = whitening_gain("Sst_IRES_Cre")
        for kind, population in neurons.POPULATIONS.items():
            monkeypatch.setitem(neurons.POPULATIONS, kind, replace(population, arousal=(0.0, 0.0), mixed=0.0))
        assert gain > 0.03 > whitening_gain("Sst_IRES_Cre")

    @pytest.mark.xfail(strict=True, reason="the simulation lacks what makes whitening pay on the real session")
    def test_whitening_pays_for_excitatory_neurons(self):
        """On 80 neurons of the real session it is worth .07; here .02, -.01, .01, .00 on seeds 50 to 53."""
        assert whitening_gain("Cux2_CreERT2") > 0.03

    def test_few_labels_tell_less(self, accuracy):
        assert (accuracy["template"] - accuracy["template, 1 repeat"] > 0.2).all()
        assert (accuracy["template, 1 repeat"] > 3 / 30).all() and (accuracy["template"] < 0.95).all()

    def test_the_oracle_of_gratings(self, decoded_recordings):
        for data in decoded_recordings:
            gratings = data.drifting_gratings
            windows, label = two_seconds(data, np.asarray(gratings.timestamps)), np.asarray(gratings.orientation_id)
            fold = np.arange(len(label)) % 5
            oracle = oracle_accuracy(data, "drifting_gratings", n_draws=30)
            for method in (template, ridge):
                right = [
                    method(windows[fold != k], label[fold != k], windows[fold == k]) == label[fold == k]
                    for k in range(5)
                ]
                assert oracle > np.mean(np.concatenate(right)) + 0.02
            few = {"units": np.arange(6), "centres": gratings.timestamps[fold == 0], "labels": label[fold == 0]}
            assert 1 / 8 < oracle_accuracy(data, "drifting_gratings", n_draws=30, **few) < oracle

    def test_the_oracle_refuses(self, session, dataset):
        with pytest.raises(PoyoSSLError, match="does not know the task 'pupil'"):
            oracle_accuracy(session, "pupil")
        data = dataset.get_recording("sim_000")
        del data.simulation
        with pytest.raises(PoyoSSLError, match="sim_000: holds no true parameters"):
            oracle_accuracy(data, "natural_movie")


def whitening_gain(line: str) -> float:
    """Mean over two recordings of what whitening adds to a template with all labels."""
    found = [
        decode(make_recording("x", line, 80, 14, make_movie(seed), np.random.default_rng([seed, 5])))
        for seed in (52, 53)
    ]
    return float(np.mean([f["whitened"] - f["template"] for f in found]))


def two_seconds(data: compat.Data, centres: np.ndarray) -> np.ndarray:
    """Windows of 2 s in six bins, z-scored by the whole recording, (R, 6 * N)."""
    traces = data.calcium_traces.df_over_f.astype(float)
    traces = (traces - traces.mean(axis=0)) / traces.std(axis=0)
    rows = np.round((centres - 1) * 30).astype(int)[:, None] + np.arange(60)
    return (
        traces[np.clip(rows, 0, len(traces) - 1)]
        .reshape(len(centres), 6, 10, -1)
        .mean(axis=2)
        .reshape(len(centres), -1)
    )


def decode(data: compat.Data) -> dict[str, float]:
    """Accuracy on two held-out repeats, five times, of simple decoders of the second of the movie."""
    movie = data.natural_movie_one
    first = movie.frame % 30 == 0
    windows, label, repeat = two_seconds(data, movie.start[first] + 0.5), movie.frame[first] // 30, movie.repeat[first]
    unlabelled = np.arange(1.0, len(data.calcium_traces.df_over_f) / 30 - 1, 0.5)
    correct: dict[str, list[float]] = {}
    for held in np.arange(10).reshape(5, 2):
        times = movie.start[np.isin(movie.repeat, held)]
        others = two_seconds(data, unlabelled[(unlabelled < times[0] - 1) | (unlabelled > times[-1] + 1)])
        mean, std = others.mean(axis=0), others.std(axis=0)
        values, vectors = np.linalg.eigh(np.cov(((others - mean) / std).T))
        z = (windows - mean) / std
        white = z @ (vectors / np.sqrt(values + 1)) @ vectors.T
        test, one = np.isin(repeat, held), repeat == np.setdiff1d(np.arange(10), held)[0]
        for name, x, train, method in (
            ("template", z, ~test, template),
            ("template, 1 repeat", z, one, template),
            ("whitened", white, ~test, template),
            ("whitened, 1 repeat", white, one, template),
            ("ridge", z, ~test, ridge),
        ):
            correct.setdefault(name, []).append(float((method(x[train], label[train], x[test]) == label[test]).mean()))
    return {name: float(np.mean(values)) for name, values in correct.items()}


def ridge(train: np.ndarray, label: np.ndarray, test: np.ndarray, penalty: float = 1000.0) -> np.ndarray:
    """Class that a ridge regression on indicators names."""
    dual = np.linalg.solve(train @ train.T + penalty * np.eye(len(train)), np.eye(label.max() + 1)[label] - 0.1)
    return (test @ train.T @ dual).argmax(axis=1)


def test_recordings_of_one_generation_are_written_by_its_own_serialiser(sim_dir):
    data = Recordings(sim_dir).get_recording("sim_000")
    assert isinstance(data, compat.Data) and str(data.session.recording_date).startswith("2016-01-01")
