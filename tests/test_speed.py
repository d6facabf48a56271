"""Fast paths give what plain ones give, and stay fast: ratios with slack, of peers in one process."""

from __future__ import annotations

import itertools
import pickle
import time
from functools import partial
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from scipy import stats

from benchmarks import batching, imports, loading, scoring, sizes, steps
from benchmarks.harness import Settings, race
from poyo_ssl_plugin import MaskedLatentReconstruction, PredictabilitySampler, Recordings
from poyo_ssl_plugin.compat import DatasetIndex, Interval, RandomFixedWindowSampler, collate
from poyo_ssl_plugin.data import WindowIndex
from poyo_ssl_plugin.data.windows import window_generator
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.models import process_latents
from poyo_ssl_plugin.predictability import score_dataset, skewness_kurtosis
from poyo_ssl_plugin.recordings import Rows

CPU = time.process_time


class TestMoments:
    def traces(self, shape: tuple[int, int] = (40_000, 50)) -> np.ndarray:
        return np.random.default_rng(0).gamma(2.0, 0.1, size=shape)

    @pytest.mark.parametrize("offset", [0.0, 5.0, -1e4])
    def test_panels_about_their_own_means_agree_with_extended_precision(self, offset):
        x = self.traces() + offset
        x[123, 7] += 50  # an outlier
        x[:, 9] += np.linspace(0, 3, len(x))  # drift
        x[:, 3] -= offset  # one trace far from the others, so that they have no common number
        skewness, kurtosis = skewness_kurtosis(x)
        # Not with scipy: at -1e4 its own error is 2e-8, ours 3e-11.
        deviation = x.astype(np.longdouble)
        deviation -= deviation.mean(axis=0)
        m2, m3, m4 = ((deviation**power).mean(axis=0) for power in (2, 3, 4))
        np.testing.assert_allclose(skewness, (m3 / m2**1.5).astype(float), rtol=1e-9)
        np.testing.assert_allclose(kurtosis, (m4 / m2**2 - 3).astype(float), rtol=1e-9)

    def test_blocks_read_ahead_give_what_one_array_does(self, sim_dir):
        dataset = Recordings(sim_dir, ["sim_000"])
        table = score_dataset(dataset, split=None)
        # The domain ends at the last sample, which is not in it.
        whole = skewness_kurtosis(dataset.get_recording("sim_000").calcium_traces.df_over_f[:-1].astype(float))
        np.testing.assert_allclose(table["skewness"], whole[0], rtol=1e-9)
        np.testing.assert_allclose(table["kurtosis"], whole[1], rtol=1e-9)

    def test_panels_of_any_number_of_threads_give_the_same(self):
        x = self.traces((60_000, 40))
        with mock.patch("poyo_ssl_plugin.predictability.moments._MAX_THREADS", 1):
            one = skewness_kurtosis(x)
        for a, b in zip(one, skewness_kurtosis(x), strict=True):
            np.testing.assert_array_equal(a, b)

    @pytest.mark.slow
    def test_much_faster_than_scipy(self):
        x = self.traces((60_000, 200))
        best = race({"ours": lambda: skewness_kurtosis(x), "scipy": lambda: (stats.skew(x), stats.kurtosis(x))}, 5)
        assert best["scipy"] / best["ours"] > 8

    def test_means_far_from_zero_cost_no_precision(self):
        x = self.traces((40_000, 20))
        x[:, 3] += 1.0  # seven standard deviations: powers are taken about a mean from here on
        x[30_000:, 5] += 2.0
        for ours, scipys in zip(skewness_kurtosis(x), (stats.skew(x), stats.kurtosis(x)), strict=True):
            np.testing.assert_allclose(ours, scipys, rtol=1e-9)

    @pytest.mark.slow
    def test_one_thread_takes_a_few_sums(self):
        x = self.traces((40_000, 200))
        with mock.patch("poyo_ssl_plugin.predictability.moments._MAX_THREADS", 1):
            best = race({"ours": lambda: skewness_kurtosis(x), "sum": lambda: np.sum(x)}, 6, clock=CPU)
        assert best["ours"] < 9 * best["sum"]


class TestScoring:
    @pytest.mark.slow
    def test_it_takes_a_few_times_the_reading(self, tmp_path):
        scoring.write(tmp_path / "one", 60_000, 100)
        dataset = Recordings(tmp_path / "one")
        samples = dataset.get_recording("long").calcium_traces.__dict__["df_over_f"]
        peers = {"scoring": lambda: score_dataset(dataset, split=None), "reading": lambda: samples[:]}
        best = race(peers, 6, clock=CPU)
        assert best["scoring"] < 8 * best["reading"]


class TestImports:
    def test_the_package_costs_less_than_numpy(self):
        code = {**imports.CODE, "numpy": "import numpy"}
        peers = {name: partial(imports.python, text) for name, text in code.items()}
        best = race(peers, 3, clock=imports.time_of_children)
        of_numpy = best["numpy"] - best["nothing"]
        assert best["poyo_ssl_plugin"] - best["nothing"] < 0.7 * of_numpy
        assert best["poyo_ssl_plugin.predictability"] - best["nothing"] < 5 * of_numpy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "all_sizes"),
    [
        (sizes.scoring_frames, (300, 3_000, 30_000, 300_000)),
        (sizes.scoring_neurons, (3, 30, 300, 3_000)),
        (sizes.sampling_windows, (1_000, 10_000, 100_000, 1_000_000)),
        (sizes.loading_windows, (3, 30, 300, 3_000)),
        (sizes.loading_neurons, (3, 30, 300, 3_000)),
    ],
)
def test_cost_is_linear_over_three_decades(make, all_sizes, tmp_path):
    curve = sizes.measure(make, all_sizes, 3, Settings(tmp_path, quick=True))
    steps_up = list(itertools.pairwise(curve[size] for size in all_sizes))
    # Ten times the size: at most ten times the cost and a half, and over all three decades no more than a quarter.
    assert max(dear / cheap for cheap, dear in steps_up) < 15
    assert sizes.exponent(curve) < 1.2


class TestSampling:
    @pytest.mark.slow
    def test_much_faster_than_the_stock_sampler(self):
        intervals = {f"r{i}": Interval(0.0, 500.0) for i in range(20)}
        ours = PredictabilitySampler(sampling_intervals=intervals, window_length=0.5)
        stock = RandomFixedWindowSampler(sampling_intervals=intervals, window_length=0.5)
        best = race({"ours": lambda: list(ours), "stock": lambda: list(stock)}, 3, clock=CPU)
        assert best["stock"] / best["ours"] > 8


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    return loading.loaders(loading.allen_size(Settings(tmp_path_factory.mktemp("bench"), quick=True)))


class TestWindows:
    def test_rows_past_hdf5_are_those_of_hdf5(self, sim_dir):
        samples = Recordings(sim_dir).get_recording("sim_000").calcium_traces.__dict__["df_over_f"]
        rows = Rows(samples)
        assert rows._file is not None
        for first, last in ((0, 60), (100, 101), (7, 7), (len(samples) - 3, len(samples))):
            np.testing.assert_array_equal(rows[first:last], samples[first:last])

    @pytest.mark.parametrize("options", [{"chunks": (10, 3)}, {"dtype": ">f4"}, {"chunks": True, "compression": 1}])
    def test_what_is_not_one_plain_piece_is_read_by_hdf5(self, tmp_path, options):
        import h5py

        x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file.create_dataset("x", data=x, **options)
        with h5py.File(tmp_path / "x.h5") as file:
            rows = Rows(file["x"])
            assert rows._file is None
            np.testing.assert_array_equal(rows[20:30], x[20:30])

    def test_a_file_cut_short_while_it_is_open(self, sim_dir, tmp_path):
        path = tmp_path / "sim_000.h5"
        whole = (sim_dir / "sim_000.h5").read_bytes()
        path.write_bytes(whole)
        dataset = Recordings(tmp_path, fields=["calcium_traces"])
        assert dataset[DatasetIndex("sim_000", 240.0, 242.0)].calcium_traces.df_over_f.any()
        path.write_bytes(whole[: len(whole) // 4])
        with pytest.raises(RecordingError, match=r"sim_000\.h5: is shorter than when it was opened"):
            dataset[DatasetIndex("sim_000", 240.0, 242.0)]

    def test_seeds_give_generators_that_repeat_and_differ(self, sim_dir):
        dataset = Recordings(sim_dir, fields=["calcium_traces"])

        def draw(seed: int) -> np.ndarray:
            return window_generator(dataset[WindowIndex("sim_000", 3.0, 5.0, seed=seed)]).uniform(size=500)

        draws = np.array([draw(seed) for seed in range(40)])
        np.testing.assert_array_equal(draw(3), draws[3])
        # Neighbouring seeds are as good as independent, and uniform.
        assert stats.kstest(draws.ravel(), "uniform").pvalue > 1e-3
        assert np.abs(np.corrcoef(draws)[~np.eye(40, dtype=bool)]).max() < 0.25
        assert stats.kstest(draws[:, 0], "uniform").pvalue > 1e-3

    def test_tokens_are_those_of_a_stock_window(self, loaders):
        ours, _, _, windows = loaders
        tokenize = ours.transform.transforms[-1]
        fast = Recordings(ours.dataset_dir, transform=tokenize, fields=["calcium_traces"])
        plain = loading.StockRecordings(ours.dataset_dir)
        plain.transform = tokenize
        for window in windows[:5]:
            a, b = (collate([dataset[window]])["inputs"] for dataset in (fast, plain))
            for key in a:
                torch.testing.assert_close(a[key], b[key])

    @pytest.mark.slow
    def test_much_faster_than_the_stock_dataset(self, loaders):
        ours, _, stock, windows = loaders
        peers = {
            "ours": lambda: loading.load_batches(ours, windows[:64]),
            "stock": lambda: loading.load_batches(stock, windows[:64]),
        }
        best = race(peers, 4, clock=CPU)
        assert best["stock"] / best["ours"] > 2.5

    def test_a_pickled_dataset_loads_the_same(self, loaders):
        ours, _, _, windows = loaders
        again = pickle.loads(pickle.dumps(ours))
        for window in windows[:3]:
            a, b = (collate([dataset[window]])["inputs"]["input_values"] for dataset in (ours, again))
            assert torch.equal(a, b)

    @pytest.mark.slow
    def test_a_spawned_worker_loads_the_same(self, loaders):
        ours, _, _, windows = loaders
        assert loading.in_spawned_worker(ours, windows[:8]) == 1.0

    @pytest.mark.slow
    def test_memory_does_not_grow(self, loaders):
        ours, _, _, windows = loaders
        assert loading.growth(ours, windows, 20_000) < 8 << 20


@pytest.mark.slow
def test_packing_is_faster_where_tokens_are_what_costs():
    model = batching.make("paper")
    run = batching.step(model, [batching.batch(1, 4, seed=0)])
    best = race({"packed": run, "padded": lambda: batching.as_padded(run)}, 3, clock=CPU)
    assert best["padded"] / best["packed"] > 1.15


@pytest.mark.slow
def test_a_pretraining_step_is_cheaper_than_the_papers():
    torch.set_num_threads(1)
    best = race({name: steps.step(name, [], 2) for name in ("pretrain", "paper_pretrain")}, 2, clock=CPU)
    assert best["paper_pretrain"] > 3 * best["pretrain"]


def test_the_encoder_runs_once_per_pretraining_step():
    model = tiny.model(**tiny.PAPER).train()
    with mock.patch.object(model.enc_atn, "forward", wraps=model.enc_atn.forward) as encoder:
        MaskedLatentReconstruction(tiny.SIZE["dim"], hide_neurons=0.0)(model, tiny.inputs()).loss.backward()
    assert encoder.call_count == 1


def test_stock_attention_gives_the_same_outputs():
    model = tiny.model(**tiny.PAPER)
    inputs = tiny.inputs()
    ours = model(**inputs)
    torch.testing.assert_close(ours, batching.with_stock_attention(model)(**inputs))
    latents, rotary = model.encode(**inputs)
    assert process_latents(model, latents, rotary).shape == latents.shape
