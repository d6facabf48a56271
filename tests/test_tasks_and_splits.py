from __future__ import annotations

import numpy as np
import pytest
import torch

from poyo_ssl_plugin.data import Recordings, TrialSampler, find_targets, find_trials, get_task
from poyo_ssl_plugin.data.splits import part_within, recorded_split, repeat_fold
from poyo_ssl_plugin.errors import RecipeError, RecordingError
from poyo_ssl_plugin.recordings import intersect_intervals, merge_intervals, split_intervals

GRATINGS, MOVIE = get_task("drifting_gratings"), get_task("natural_movie")


def test_trials_of_gratings_are_the_presentations_of_the_split(dataset):
    data = dataset.get_recording("sim_000")
    shown = data.drifting_gratings
    total = 0
    for part in ("train", "valid", "test"):
        trials = find_trials(data, GRATINGS, part)
        times = split_intervals(data, part)
        for start, end, label, bounds in zip(trials.start, trials.end, trials.label, trials.bounds):
            row = np.flatnonzero(shown.start == start)[0]
            assert shown.end[row] == end and shown.orientation_id[row] == label
            assert bounds.tolist() in times.tolist() and bounds[0] <= start and end <= bounds[1] + 0.05
        total += len(trials)
    assert total == len(shown)


def test_trials_of_the_movie_are_its_seconds(dataset):
    data = dataset.get_recording("sim_000")
    n = {part: len(find_trials(data, MOVIE, part)) for part in ("train", "valid", "test")}
    repeats = len(np.unique(data.natural_movie_one.repeat))
    assert n["test"] == n["valid"] == 30 and sum(n.values()) == 30 * repeats
    trials = find_trials(data, MOVIE, "test")
    assert trials.label.tolist() == list(range(30))
    np.testing.assert_allclose(trials.end - trials.start, 1.0)


def test_trials_of_the_real_session(real_dir):
    data = Recordings(real_dir).get_recording("501574836")
    assert [len(find_trials(data, MOVIE, part)) for part in ("train", "valid", "test")] == [240, 30, 30]
    with pytest.raises(RecordingError, match="has no 'drifting_gratings'"):
        find_trials(data, GRATINGS, "train")


@pytest.mark.parametrize("task", [GRATINGS, MOVIE])
@pytest.mark.parametrize("length", [0.5, 2.0])
def test_windows_stay_in_their_split_and_ask_for_the_right_label(dataset, task, length):
    part = "train"
    trials = {name: find_trials(dataset.get_recording(name), task, part) for name in dataset.recording_ids}
    windows = Recordings(dataset.dataset_dir, fields=["calcium_traces", task.source])
    sampler = TrialSampler(trials, window_length=length, jitter=True, generator=torch.Generator().manual_seed(0))
    for index in list(sampler)[:200]:
        times = split_intervals(dataset.get_recording(index.recording_id), part)
        assert ((index.start >= times[:, 0] - 1e-9) & (index.end <= times[:, 1] + 0.05)).any()
        assert index.start <= index.target_time <= index.end + 0.05
        asked, label = find_targets(windows[index], task)
        of = trials[index.recording_id]
        row = np.flatnonzero((of.start <= index.target_time) & (index.target_time <= of.end))[0]
        assert label.tolist() == [of.label[row]]
        assert asked[0] == pytest.approx(index.target_time - index.start, abs=1e-4)


def test_without_jitter_every_trial_comes_once_in_order_at_its_centre(dataset):
    trials = find_trials(dataset.get_recording("sim_000"), GRATINGS, "test")
    windows = list(TrialSampler({"sim_000": trials}, window_length=1.9))
    np.testing.assert_allclose([w.target_time for w in windows], trials.centre)
    assert len(TrialSampler({"sim_000": trials}, window_length=1.9, repeats=3)) == 3 * len(trials)


def test_a_window_longer_than_every_interval(dataset):
    trials = find_trials(dataset.get_recording("sim_000"), GRATINGS, "test")
    with pytest.raises(RecordingError, match="none of their split intervals holds a window of 500"):
        TrialSampler({"sim_000": trials}, window_length=500.0)


def test_windows_without_a_target_time_ask_for_every_presentation_inside(dataset):
    windows = Recordings(dataset.dataset_dir, fields=["calcium_traces", "drifting_gratings"])
    from poyo_ssl_plugin.compat import DatasetIndex

    shown = dataset.get_recording("sim_000").drifting_gratings
    asked, labels = find_targets(windows[DatasetIndex("sim_000", 0.5, 8.5)], GRATINGS)
    inside = (shown.timestamps >= 0.5) & (shown.timestamps < 8.5)
    np.testing.assert_allclose(asked, shown.timestamps[inside] - 0.5, atol=1e-6)
    assert labels.tolist() == shown.orientation_id[inside].tolist()
    assert len(find_targets(windows[DatasetIndex("sim_000", 100.0, 100.5)], MOVIE)[0]) == 0


def test_unknown_task():
    with pytest.raises(RecipeError, match="unknown task 'gratings'; there are drifting_gratings"):
        get_task("gratings")


class TestSplits:
    def test_recorded(self, dataset):
        split = recorded_split(dataset)
        for name in dataset.recording_ids:
            for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
                assert len(intersect_intervals(split[a][name], split[b][name])) == 0

    def test_folds_test_every_repeat_once_and_train_on_the_rest(self, dataset):
        n = 3
        splits = [repeat_fold(dataset, "natural_movie_one", fold, n) for fold in range(n)]
        for name in dataset.recording_ids:
            data = dataset.get_recording(name)
            tested = np.concatenate([split["test"][name] for split in splits])
            np.testing.assert_allclose(merge_intervals(tested), split_intervals(data, "natural_movie_one"))
            recorded = merge_intervals(np.concatenate([p[name] for p in recorded_split(dataset).values()]))
            for split in splits:
                assert len(intersect_intervals(split["train"][name], split["test"][name])) == 0
                both = merge_intervals(np.concatenate([split["train"][name], split["test"][name]]))
                np.testing.assert_allclose(both, recorded)

    def test_too_many_folds(self, dataset):
        with pytest.raises(RecordingError, match="too few for 99 folds"):
            repeat_fold(dataset, "natural_movie_one", 0, 99)
        with pytest.raises(RecordingError, match="no repeats of 'drifting_gratings'"):
            repeat_fold(dataset, "drifting_gratings", 0, 2)

    def test_within_a_domain(self, dataset):
        train = recorded_split(dataset)["train"]
        inside = part_within(train, dataset, "drifting_gratings")
        domain = split_intervals(dataset.get_recording("sim_000"), "drifting_gratings")
        np.testing.assert_allclose(inside["sim_000"], intersect_intervals(train["sim_000"], domain))
        with pytest.raises(RecordingError, match="'nothing_domain'"):
            part_within(train, dataset, "nothing")
