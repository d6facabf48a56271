from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from poyo_ssl_plugin import compat
from poyo_ssl_plugin.data import Recordings, simulate
from poyo_ssl_plugin.simulation import MOVIE_FRAMES, make_movie, make_recording
from poyo_ssl_plugin.errors import PoyoSSLError


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
    assert {
        "brainset",
        "subject",
        "session",
        "device",
        "calcium_traces",
        "rois",
        "running",
        "drifting_gratings",
        "natural_movie_one",
        "drifting_gratings_domain",
        "natural_movie_one_domain",
        "spontaneous_domain",
        "train_domain",
        "valid_domain",
        "test_domain",
    } <= set(data.keys())
    assert set(data.rois.keys()) == {
        "id",
        "imaging_plane_xy",
        "imaging_plane_area",
        "imaging_plane_width",
        "imaging_plane_height",
    }
    gratings = data.drifting_gratings
    assert set(gratings.keys()) == {
        "start",
        "end",
        "timestamps",
        "temporal_frequency",
        "orientation",
        "orientation_id",
        "temporal_frequency_id",
    }
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
    movie = [share(part, "natural_movie_one") for part in ("train", "valid", "test")]
    np.testing.assert_allclose(gratings, [0.7, 0.1, 0.2], atol=0.03)
    np.testing.assert_allclose(movie, [0.8, 0.1, 0.1], atol=1e-6)


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


@pytest.fixture(scope="module")
def excitatory() -> np.ndarray:
    """Simulated traces of the length of session 501574836, of its Cre line."""
    data = make_recording("x", "Cux2_CreERT2", 242, 64, make_movie(0), np.random.default_rng(0))
    return data.calcium_traces.df_over_f.astype(float)


class TestCalibration:
    """The calibration to real recordings; not to be loosened for a method's sake."""

    def test_excitatory_neurons(self, excitatory, real_dir):
        real = Recordings(real_dir).get_recording("501574836").calcium_traces.df_over_f.astype(float)
        for measure, tolerance in ((stats.skew, 0.25), (stats.kurtosis, 0.35), (noise_level, 0.15)):
            a, b = quartiles(measure(excitatory)), quartiles(measure(real))
            np.testing.assert_allclose(a, b, rtol=tolerance, err_msg=measure.__name__)
        rates = np.median(event_rate(excitatory, 30.0)), np.median(event_rate(real, 30.03))
        assert 0.5 < rates[0] / rates[1] < 2
        passing = [np.mean((stats.skew(x) <= 3.51) & (stats.kurtosis(x) <= 22.62)) for x in (excitatory, real)]
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


def test_recordings_of_one_generation_are_written_by_its_own_serialiser(sim_dir):
    data = Recordings(sim_dir).get_recording("sim_000")
    assert isinstance(data, compat.Data) and str(data.session.recording_date).startswith("2016-01-01")
