from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from scipy import stats

from poyo_ssl_plugin.compat import GENERATION, Dataset, Interval, RandomFixedWindowSampler
from poyo_ssl_plugin.data import CurriculumSampler, PredictabilitySampler
from poyo_ssl_plugin.errors import DietError, RecordingError
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable

INTERVALS = {
    "a": Interval(start=np.array([0.0, 50.0, 100.0]), end=np.array([10.3, 50.9, 107.0])),
    "b": Interval(0.0, 33.3),
}


def diet(**units: int) -> Diet:
    """A diet of so many neurons per recording; a recording of none has one that is not in it."""
    rows = [
        dict(recording_id=name, unit_id=f"{name}{i}", skewness=float(i), kurtosis=0.0)
        for name, n in units.items()
        for i in range(max(n, 1))
    ]
    table = PredictabilityTable.from_rows(rows)
    return Diet(table, np.array([units[name] > 0 for name in table["recording_id"]]))


def sampler(seed: int = 0, **options) -> PredictabilitySampler:
    options = {"sampling_intervals": INTERVALS, "window_length": 1.0, **options}
    return PredictabilitySampler(generator=torch.Generator().manual_seed(seed), **options)


class TestContractOfTheStockSampler:
    @pytest.mark.parametrize("length", [0.3, 0.9, 1.0, 2.7, 7.0])
    def test_same_number_of_windows_in_every_epoch(self, length):
        stock = RandomFixedWindowSampler(sampling_intervals=INTERVALS, window_length=length)
        ours = sampler(window_length=length)
        assert len(ours) == len(stock)
        for _ in range(20):
            # (The stock sampler itself is off by one in some epochs, by rounding.)
            assert len(list(ours)) == len(ours)

    def test_windows_lie_in_their_intervals_and_do_not_overlap(self):
        windows = list(sampler(window_length=0.7))
        for window in windows:
            times = INTERVALS[window.recording_id]
            inside = (window.start >= times.start) & (window.end <= times.end + 1e-9)
            assert inside.any() and window.end - window.start == pytest.approx(0.7)
        starts = np.sort([w.start for w in windows if w.recording_id == "b"])
        # Only the window that is drawn from the whole interval may overlap its neighbours.
        assert (np.diff(starts) < 0.7 - 1e-9).sum() <= 2

    def test_fresh_jitter_every_epoch_and_the_same_from_the_same_seed(self):
        one, two = sampler(3), sampler(3)
        first, second = [w.start for w in one], [w.start for w in one]
        assert first != second
        assert [w.start for w in two] == first and [w.start for w in two] == second

    def test_without_a_generator_torch_s_global_one_is_used(self):
        ours = PredictabilitySampler(sampling_intervals=INTERVALS, window_length=1.0)
        torch.manual_seed(5)
        first = list(ours)
        torch.manual_seed(5)
        assert list(ours) == first != list(ours)

    @pytest.mark.parametrize("length", [3.06, 5.6, 40.3])
    def test_start_times_are_uniform(self, length):
        """The stock sampler puts those that its offset costs exactly at an edge."""
        ours = sampler(sampling_intervals={"b": Interval(0.0, length)}, window_length=2.0)
        starts = [window.start for _ in range(1500) for window in ours]
        assert stats.kstest(starts, stats.uniform(0, length - 2.0).cdf).pvalue > 0.01

    def test_a_short_trial_gets_fresh_offsets_in_every_epoch(self):
        start = np.arange(40) * 3.0625
        trials = {"a": Interval(start=start, end=start + 3.06)}
        ours = sampler(sampling_intervals=trials, window_length=2.0)
        stock = RandomFixedWindowSampler(sampling_intervals=trials, window_length=2.0)
        epochs = [np.sort([w.start for w in ours]) for _ in range(50)]
        assert len(ours) == len(stock) == 40
        offsets = np.stack(epochs) - start
        assert offsets.min() >= 0 and offsets.max() <= 1.06
        assert len(np.unique(offsets)) == offsets.size

    def test_short_intervals(self, caplog):
        assert len(sampler(window_length=5.0)) == 2 + 1 + 6
        assert "Skipping" in caplog.text
        with pytest.raises(ValueError, match="too short to sample from"):
            len(sampler(window_length=5.0, drop_short=False))
        with pytest.raises(ValueError, match="All intervals are too short"):
            list(sampler(window_length=50.0))
        with pytest.raises(ValueError, match="greater than 0"):
            sampler(window_length=0.0)

    @pytest.mark.parametrize(
        ("intervals", "options"),
        [
            (INTERVALS, {"window_length": 5.0, "drop_short": False}),
            (INTERVALS, {"window_length": 50.0}),
            (INTERVALS, {"window_length": 50.0, "drop_short": False}),
        ],
    )
    def test_value_errors_where_the_stock_sampler_has_them(self, intervals, options):
        for kind in (RandomFixedWindowSampler, PredictabilitySampler):
            with pytest.raises(ValueError):
                list(kind(sampling_intervals=intervals, **options))

    @pytest.mark.parametrize("length", [0.0, -1.0])
    def test_a_window_without_length(self, length):
        # torch_brain 0.1 does not check it.
        stock = [RandomFixedWindowSampler] if GENERATION == "0.2" else []
        for kind in (*stock, PredictabilitySampler):
            with pytest.raises(ValueError, match="greater than 0"):
                kind(sampling_intervals=INTERVALS, window_length=length)

    @pytest.mark.parametrize("drop_short", [True, False])
    @pytest.mark.parametrize("length", [0.5, 0.9, 5.0, 7.0, 33.3])
    def test_short_intervals_as_the_stock_sampler_does(self, length, drop_short):
        """The same recordings, and the same number of windows of each, or the same refusal."""
        outcomes = []
        for kind in (RandomFixedWindowSampler, PredictabilitySampler):
            try:
                made = kind(sampling_intervals=INTERVALS, window_length=length, drop_short=drop_short)
                windows = [(w.recording_id, float(w.start // 50)) for w in made]
                outcomes.append((len(made), sorted(set(windows))))
            except ValueError:
                outcomes.append("refused")
        assert outcomes[0] == outcomes[1]

    def test_windows_are_read_by_torch_brain_s_dataset(self, sim_dir):
        dataset = Dataset(sim_dir)
        intervals = {name: dataset.get_recording(name).train_domain for name in dataset.recording_ids}
        ours = PredictabilitySampler(sampling_intervals=intervals, window_length=2.0)
        window = dataset[next(iter(ours))]
        assert window.calcium_traces.df_over_f.shape[0] == pytest.approx(60, abs=1)


class TestDiet:
    def test_only_recordings_that_the_diet_feeds(self):
        assert {w.recording_id for w in sampler(diet=diet(a=0, b=3))} == {"b"}

    def test_a_diet_that_feeds_nothing(self):
        with pytest.raises(DietError, match="keeps no neuron of these recordings"):
            sampler(diet=diet(a=0, b=0))


class TestCurriculum:
    def curriculum(self, **options) -> CurriculumSampler:
        options = {"diet": diet(a=4, b=4), "epochs": 4, "start_fraction": 0.2, **options}
        return CurriculumSampler(sampling_intervals=INTERVALS, window_length=1.0, **options)

    @pytest.mark.parametrize("pacing", ["linear", "exponential", "step", lambda x: x**2])
    def test_opens_from_start_to_all_and_stays(self, pacing):
        ours = self.curriculum(pacing=pacing)
        fractions = [w.diet_fraction for _ in range(6) for w in ours]
        assert fractions[0] == pytest.approx(0.2) and fractions[-1] == 1.0
        assert (np.diff(fractions) >= 0).all()
        assert fractions[len(ours) * 4] == 1.0

    def test_set_epoch_resumes_where_it_was(self):
        one, two = self.curriculum(), self.curriculum()
        for _ in range(2):
            expected = [w.diet_fraction for w in one]
        two.set_epoch(1)
        assert [w.diet_fraction for w in two] == expected

    def test_a_list_of_intervals(self):
        with pytest.raises(RecordingError, match=r"must be \{recording id: Interval\(...\), ...\}, not a list"):
            PredictabilitySampler(sampling_intervals=[(0.0, 10.0)], window_length=1.0)

    def test_bad_arguments(self):
        with pytest.raises(DietError, match="needs a diet"):
            self.curriculum(diet=None)
        with pytest.raises(DietError, match="unknown pacing 'slow'"):
            self.curriculum(pacing="slow")
        with pytest.raises(DietError, match="start_fraction"):
            self.curriculum(start_fraction=0.0)


def test_a_large_epoch_starts_at_once():
    """The paper's 1.17 million windows: far quicker per window than one Python object at a time."""
    intervals = {f"r{i}": Interval(0.0, 540.0) for i in range(433)}
    stock = RandomFixedWindowSampler(
        sampling_intervals={name: intervals[name] for name in list(intervals)[:8]}, window_length=0.2
    )
    ours = sampler(sampling_intervals=intervals, window_length=0.2)
    assert len(ours) == 433 * 2700

    def seconds_to_first(sampler) -> float:
        begin = time.perf_counter()
        next(iter(sampler))
        return time.perf_counter() - begin

    per_window = seconds_to_first(stock) / len(stock), seconds_to_first(ours) / len(ours)
    assert per_window[1] < per_window[0] / 10
