from __future__ import annotations

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from poyo_ssl_plugin.compat import (
    ArrayDict,
    Data,
    DatasetIndex,
    Interval,
    IrregularTimeSeries,
    interval,
    regular_series,
)
from poyo_ssl_plugin.data import (
    Recordings,
    Trials,
    TrialSampler,
    find_targets,
    find_trials,
    fit_task,
    get_task,
    tasks_of,
)
from poyo_ssl_plugin.data.given_labels import GivenLabels, shuffled
from poyo_ssl_plugin.data.importing import recording_from_arrays, save_recording
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
    with pytest.raises(RecordingError, match="none has room for a window of 500 s"):
        TrialSampler({"sim_000": trials}, window_length=500.0)


def test_windows_without_a_target_time_ask_for_every_presentation_inside(dataset):
    windows = Recordings(dataset.dataset_dir, fields=["calcium_traces", "drifting_gratings"])
    shown = dataset.get_recording("sim_000").drifting_gratings
    asked, labels = find_targets(windows[DatasetIndex("sim_000", 0.5, 8.5)], GRATINGS)
    inside = (shown.timestamps >= 0.5) & (shown.timestamps < 8.5)
    np.testing.assert_allclose(asked, shown.timestamps[inside] - 0.5, atol=1e-6)
    assert labels.tolist() == shown.orientation_id[inside].tolist()
    assert len(find_targets(windows[DatasetIndex("sim_000", 100.0, 100.5)], MOVIE)[0]) == 0


class TestOuterTrials:
    """The first and last second of a held-out repeat of the movie."""

    @pytest.mark.parametrize("part", ["train", "valid", "test"])
    def test_are_left_out_where_their_window_does_not_fit(self, dataset, part, caplog):
        caplog.set_level(logging.INFO)
        trials = find_trials(dataset.get_recording("sim_000"), MOVIE, part)
        sampler = TrialSampler({"sim_000": trials}, window_length=2.0)
        left_out = len(trials) - len(sampler)
        bounds = {tuple(b) for b in trials.bounds.tolist()}
        assert 2 <= left_out <= 2 * len(bounds) and f"{left_out} of {len(trials)} trials are left out" in caplog.text
        if part != "train":
            assert trials.that_fit(2.0).label.tolist() == list(range(1, 29))

    @pytest.mark.parametrize("jitter", [False, True])
    @pytest.mark.parametrize("delay", [0.0, 0.25])
    def test_no_offset_tells_the_class_and_no_window_leaves_its_part(self, dataset, jitter, delay):
        trials = find_trials(dataset.get_recording("sim_000"), MOVIE, "train")
        sampler = TrialSampler(
            {"sim_000": trials},
            window_length=2.0,
            jitter=jitter,
            delay=delay,
            generator=torch.Generator().manual_seed(1),
        )
        windows = list(sampler)
        offset = np.array([w.target_time - w.start for w in windows])
        np.testing.assert_allclose(offset, 1.0 - delay)
        start, end = np.array([w.start for w in windows]), np.array([w.end for w in windows])
        low, high = split_intervals(dataset.get_recording("sim_000"), "train").T
        assert ((start[:, None] >= low - 1e-6) & (end[:, None] <= high + 1e-6)).any(axis=1).all()

    def test_a_trial_that_ends_a_frame_after_its_split_stays(self):
        trials = Trials(np.array([0.0]), np.array([2.0]), np.array([0]), np.array([[0.03, 2.04]]))
        (window,) = TrialSampler({"a": trials}, window_length=2.0)
        assert window.start == pytest.approx(0.03) and window.target_time == pytest.approx(1.03)
        trials = dataclasses.replace(trials, bounds=np.array([[0.1, 2.2]]))
        with pytest.raises(RecordingError, match="none has room"):
            TrialSampler({"a": trials}, window_length=2.0)


def recording(**parts) -> Data:
    """Ten one-second trials, five in train and five in test, with what else is given."""
    times = np.stack([np.arange(10.0) * 2, np.arange(10.0) * 2 + 1], axis=1)
    columns = {"side": np.array(["left", "right"] * 5), "contrast": np.linspace(0, 1, 10)}
    splits = {"train_domain": Interval(0.0, 10.0), "test_domain": Interval(10.0, 20.0)}
    traces = regular_series(sampling_rate=10.0, start=0.0, df_over_f=np.zeros((200, 1), np.float32))
    return Data(
        session=Data(id="a"), domain=Interval(0.0, 20.0), rois=ArrayDict(id=np.array(["0"])), calcium_traces=traces,
        **{"trials": interval(times, **columns), **splits, **parts},
    )  # fmt: skip


class One:
    """A dataset of one recording."""

    recording_ids = ["a"]

    def __init__(self, data: Data) -> None:
        self.data = data

    def get_recording(self, name: str) -> Data:
        return self.data


TRAIN = {"a": np.array([[0.0, 10.0]])}
SIDE = {"name": "side", "source": "trials", "label": "side"}


class TestDeclaredTasks:
    def test_by_name_by_mapping_and_by_recipe(self):
        assert get_task("drifting_gratings") is GRATINGS is get_task(GRATINGS)
        config = OmegaConf.create({"task": {**SIDE, "classes": ["left", "right"]}, "two": {**SIDE, "kind": "regression",
                                   "label": ["a", "b"]}})  # fmt: skip
        assert get_task(config.task).classes == ("left", "right")
        assert get_task(config.two).columns == ("a", "b")
        for task in (GRATINGS, MOVIE, get_task("pupil"), get_task(config.task), get_task(config.two)):
            assert get_task(task.to_dict()) == task

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"colour": 1}, "unknown key 'colour'"),
            ({"source": ""}, "'source' is missing"),
            ({"kind": "ranking"}, "kind must be classification"),
            ({"label": ["a", "b"]}, "only a regression has several columns"),
            ({"name": "../x"}, "must be a word"),
            ({"name": "natural_movie"}, "name of a built-in task"),
            ({"classes": [1, 1]}, "different labels"),
            ({"step": 0}, "positive numbers"),
            ({"label": 5}, "label must be the name"),
            ({"classes": "left"}, "classes must be a list"),
        ],
    )
    def test_a_declaration_that_does_not_fit(self, change, message):
        with pytest.raises(RecipeError, match=message):
            get_task({**SIDE, **change})

    def test_classes_are_found_in_the_training_split(self):
        data = recording()
        task = get_task(SIDE)
        with pytest.raises(RecipeError, match="not known yet"):
            find_trials(data, task, "test")
        fitted = fit_task(task, One(data), TRAIN)
        assert fitted.classes == ("left", "right") and fitted.n_outputs == 2 and fitted.chance == 0.5
        assert find_trials(data, fitted, "test").label.tolist() == [1, 0, 1, 0, 1]

    def test_a_label_that_training_has_not(self):
        data = recording()
        data.trials.side = np.array(["left", "right"] * 4 + ["left", "up"])
        with pytest.raises(RecordingError, match=r"recording a: row 9 of trials has the side 'up', .* \(left, right\)"):
            find_trials(data, fit_task(get_task(SIDE), One(data), TRAIN), "test")

    def test_labels_that_are_missing_or_one_class_only(self):
        data = recording()
        data.trials.side = np.array([np.nan, 1.0] * 5)
        with pytest.raises(RecordingError, match="3 rows of trials.side have no label"):
            fit_task(get_task(SIDE), One(data), TRAIN)
        data.trials.side = np.ones(10, int)
        with pytest.raises(RecordingError, match="has 1 labels in training"):
            fit_task(get_task(SIDE), One(data), TRAIN)
        with pytest.raises(RecordingError, match="has no column 'turn', .*; it has start, end, side"):
            fit_task(get_task({**SIDE, "label": "turn"}), One(data), TRAIN)

    def test_text_where_numbers_must_be(self):
        one, other = recording(), recording()
        other.trials.side = np.array([0, 1] * 5)
        both = SimpleNamespace(get_recording={"a": one, "b": other}.get)
        with pytest.raises(RecordingError, match="trials.side is text in some recordings and numbers in others"):
            fit_task(get_task(SIDE), both, {"a": TRAIN["a"], "b": TRAIN["a"]})
        with pytest.raises(RecordingError, match="trials.side is text, and a regression needs numbers"):
            fit_task(get_task({**SIDE, "kind": "regression"}), One(one), TRAIN)

    def test_a_regression_on_a_column_of_trials(self):
        data = recording()
        task = fit_task(get_task({**SIDE, "label": "contrast", "kind": "regression"}), One(data), TRAIN)
        train = find_trials(data, task, "train")
        assert train.label.shape == (5, 1) and train.label.dtype == np.float32
        np.testing.assert_allclose([train.label.mean(), train.label.std()], [0, 1], atol=1e-6)
        assert find_trials(data, task, "test").label.min() > train.label.max()

    @pytest.mark.parametrize("regular", [True, False])
    def test_a_regression_on_a_series_in_a_window(self, regular):
        times = np.arange(400) / 20
        values = np.stack([np.sin(times), times], axis=1)
        if regular:
            series = regular_series(sampling_rate=20.0, start=0.0, place=values)
        else:
            series = IrregularTimeSeries(timestamps=times, place=values, domain=Interval(0.0, 20.0))
        data = recording(position=series)
        task = {"name": "place", "source": "position", "label": "place", "kind": "regression", "step": 0.5}
        task = fit_task(get_task(task), One(data), TRAIN)
        trials = find_trials(data, task, "test")
        assert len(trials) == 20 and task.n_outputs == 2 and task.chance == 0
        inside = values[:200]
        expected = (np.stack([np.sin(trials.centre), trials.centre], axis=1) - inside.mean(0)) / inside.std(0)
        np.testing.assert_allclose(trials.label, expected, atol=2e-3)
        window = data.slice(11.0, 13.0)
        window.window_target_time = 12.3
        asked, target = find_targets(window, task)
        assert asked.tolist() == pytest.approx([1.3])
        np.testing.assert_allclose(
            target, (np.array([[np.sin(12.3), 12.3]]) - inside.mean(0)) / inside.std(0), atol=2e-3
        )

    def test_no_value_is_made_up_in_a_gap(self):
        times = np.r_[0:5:0.1, 9:20:0.1]
        values = np.where((times > 12) & (times < 15), np.nan, times)
        series = IrregularTimeSeries(timestamps=times, size=values, domain=Interval(0.0, 20.0))
        data = recording(pupil=series)
        task = fit_task(get_task("pupil"), One(data), TRAIN)
        centres = find_trials(data, task, None).centre
        assert centres.tolist() == [0.5, 1.5, 2.5, 3.5, 4.5, 9.5, 10.5, 11.5, 15.5, 16.5, 17.5, 18.5, 19.5]

    def test_shuffled_labels_are_those_of_other_trials(self):
        data = recording()
        task = fit_task(get_task(SIDE), One(data), TRAIN)
        trials = find_trials(data, task, None)
        shuffle = GivenLabels(task, shuffled({"a": trials}, seed=3))
        given = []
        for moment in trials.centre:
            window = data.slice(moment - 0.5, moment + 0.5)
            window.window_target_time = float(moment)
            given.append(int(find_targets(shuffle(window), task)[1][0]))
        assert sorted(given) == sorted(trials.label.tolist()) and given != trials.label.tolist()

    def test_recordings_with_equally_many_trials_do_not_share_a_shuffle(self):
        # Twelve classes once each, so that labels tell the order.
        start, bounds = np.arange(12.0), np.tile([0.0, 12.0], (12, 1))
        one = Trials(start, start + 1, np.arange(12), bounds)
        later = dataclasses.replace(one, start=start + 0.5)
        other = dataclasses.replace(one, label=np.roll(np.arange(12), 1))
        orders = [shuffled({"a": of})["a"].label.tolist() for of in (one, later, other)]
        orders[2] = [(label - 1) % 12 for label in orders[2]]
        assert len({tuple(order) for order in orders}) == 3
        assert all(sorted(order) == list(range(12)) for order in orders)
        # What stands beside a recording does not matter, the seed does.
        assert shuffled({"0": later, "a": one})["a"].label.tolist() == orders[0]
        assert shuffled({"a": one}, seed=1)["a"].label.tolist() != orders[0]

    def test_what_a_recording_supports(self, dataset, real_dir):
        found = {task.name: task for task in tasks_of(dataset.get_recording("sim_000"))}
        assert "age" not in found  # of the animal, at no time
        assert {"drifting_gratings", "natural_movie", "running", "temporal_frequency_id"} <= found.keys()
        real = {task.name for task in tasks_of(Recordings(real_dir).get_recording("501574836"))}
        assert real == {"natural_movie", "natural_movie_three"}
        data = recording(trajectory=IrregularTimeSeries(timestamps=np.arange(9.0), side=np.ones(9), domain="auto"))
        assert [(t.name, t.kind) for t in tasks_of(data)] == [
            ("side", "classification"), ("contrast", "regression"), ("trajectory_side", "regression"),
        ]  # fmt: skip

    @pytest.mark.parametrize(("source", "label"), [("subject", "age"), ("rois", "id")])
    def test_what_has_no_times_is_refused(self, dataset, source, label):
        task = get_task({"name": "x", "source": source, "label": label, "kind": "regression"})
        with pytest.raises(RecordingError, match=f"'{source}', which the task 'x' decodes, is neither trials nor"):
            fit_task(task, dataset, recorded_split(dataset)["train"])

    def test_movie_three_of_the_real_session(self, real_dir):
        data = Recordings(real_dir).get_recording("501574836")
        trials = find_trials(data, get_task("natural_movie_three"), "test")
        assert trials.label.tolist() == list(range(120))

    def test_running_is_decoded_from_simulated_recordings(self, dataset):
        task = fit_task(get_task("running"), dataset, recorded_split(dataset)["train"])
        index = next(iter(TrialSampler({"sim_000": find_trials(dataset.get_recording("sim_000"), task, "train")},
                                       window_length=2.0, jitter=True)))  # fmt: skip
        window = Recordings(dataset.dataset_dir, fields=["calcium_traces", "running"])[index]
        asked, target = find_targets(window, task)
        assert asked.tolist() == pytest.approx([1.0]) and np.isfinite(target).all() and target.shape == (1, 1)


def test_unknown_task():
    with pytest.raises(RecipeError, match="unknown task 'gratings'; there are drifting_gratings.*natural_movie_frames"):
        get_task("gratings")
    with pytest.raises(RecipeError, match="has no labels; give it to 'finetune --recipe natural_movie_frames'"):
        get_task("natural_movie_frames")


class TestSplits:
    def test_recorded(self, dataset):
        split = recorded_split(dataset)
        for name in dataset.recording_ids:
            for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
                assert len(intersect_intervals(split[a][name], split[b][name])) == 0

    def test_without_time_for_validation(self):
        data = recording(valid_domain=Interval(np.empty(0), np.empty(0)))
        split = recorded_split(One(data))
        assert split["valid"]["a"].shape == (0, 2) and split["train"]["a"].tolist() == [[0.0, 10.0]]
        data.train_domain = data.valid_domain
        with pytest.raises(RecordingError, match="recording a: split 'train' is empty"):
            recorded_split(One(data))

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

    def test_contiguous_folds_hold_neighbouring_repeats(self, dataset):
        name, n = dataset.recording_ids[0], 2
        shown = split_intervals(dataset.get_recording(name), "natural_movie_one")
        for contiguous in (False, True):
            splits = [repeat_fold(dataset, "natural_movie_one", fold, n, contiguous=contiguous) for fold in range(n)]
            tested = [merge_intervals(split["test"][name]) for split in splits]
            np.testing.assert_allclose(merge_intervals(np.concatenate(tested)), shown)
            # Neighbours touch: a contiguous fold is one piece of time.
            assert all((len(part) == 1) == contiguous for part in tested)

    def test_folds_keep_out_of_the_time_between_trials(self):
        """Three repeats of two trials that were cut out: no part joins two of them."""
        start = np.arange(6.0) * 3
        domain = interval(np.stack([start, start + 2.9], axis=1))
        shown = interval(np.stack([start + 1, start + 2], axis=1), repeat=np.repeat([0, 1, 2], 2))
        parts = {f"{part}_domain": domain for part in ("train", "valid", "test")}
        split = repeat_fold(One(Data(domain=domain, session=Data(id="a"), gratings=shown, **parts)), "gratings", 1, 3)
        assert split["test"]["a"].tolist() == [[7.0, 8.9], [9.0, 11.0]]
        assert (np.diff(split["train"]["a"], axis=1) < 3).all()

    def test_too_many_folds(self, dataset):
        with pytest.raises(RecordingError, match="too few for 99 folds"):
            repeat_fold(dataset, "natural_movie_one", 0, 99)
        with pytest.raises(RecordingError, match="has no 'static_gratings' to make folds of"):
            repeat_fold(dataset, "static_gratings", 0, 2)

    @pytest.mark.parametrize("source", ["drifting_gratings", "running"])
    def test_folds_of_what_has_no_repeats(self, dataset, source):
        """Every trial is tested in one fold and trained on in the others."""
        data, name = dataset.get_recording("sim_000"), "sim_000"
        task = fit_task(get_task(source), dataset, recorded_split(dataset)["train"])
        splits = [repeat_fold(dataset, source, fold, 3) for fold in range(3)]
        for split in splits:
            assert len(intersect_intervals(split["train"][name], split["test"][name])) == 0
            if source != "running":
                parts = [find_trials(data, task, None, split[part][name]).start for part in ("train", "test")]
                assert sorted(np.concatenate(parts)) == np.asarray(data.drifting_gratings.start).tolist()
        tested = [find_trials(data, task, None, split["test"][name]) for split in splits]
        assert min(map(len, tested)) >= len(find_trials(data, task, None)) // 4

    def test_within_a_domain(self, dataset):
        train = recorded_split(dataset)["train"]
        inside = part_within(train, dataset, "drifting_gratings")
        domain = split_intervals(dataset.get_recording("sim_000"), "drifting_gratings")
        np.testing.assert_allclose(inside["sim_000"], intersect_intervals(train["sim_000"], domain))
        with pytest.raises(RecordingError, match="'nothing_domain'"):
            part_within(train, dataset, "nothing")

    def test_within_the_trials_of_an_imported_recording(self, tmp_path):
        """Arms that pretrain on the decoded labels stay within their stimulus."""
        start = 20.0 + 4.0 * np.arange(10)
        trials = {"start": start, "end": start + 3.0, "turn": ["left", "right"] * 5}
        data = recording_from_arrays(
            np.zeros((800, 2)), recording="mouse", sampling_rate=10.0, trials=trials, split="0.6,0.2,0.2"
        )
        save_recording(data, tmp_path)
        imported = Recordings(tmp_path)
        train = recorded_split(imported)["train"]
        assert train["mouse"][0, 0] < 20.0
        expected = intersect_intervals(train["mouse"], np.array([[20.0, 59.0]]))
        np.testing.assert_allclose(part_within(train, imported, "trials")["mouse"], expected)
