"""The windows of a recording's trials as plain arrays, for scikit-learn and for looking at them."""

from __future__ import annotations

import numpy as np

from poyo_ssl_plugin.compat import DatasetIndex
from poyo_ssl_plugin.data.dataset import Recordings
from poyo_ssl_plugin.data.tasks import Task, fit_task, get_task
from poyo_ssl_plugin.data.trials import find_trials
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.plain import ReadOnlyValues
from poyo_ssl_plugin.recordings import TRACES, split_intervals


def trial_windows(
    dataset: Recordings, task: str | ReadOnlyValues | Task, *, split: str = "train", window_length: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Traces around the middle of every trial of a recording, and its label.

    Args:
        dataset: One recording.
        task: A task by name or declaration, as :func:`get_task` takes it.
        split: Which trials: those of ``"train"``, ``"valid"`` or ``"test"``.
        window_length: Length of a window in seconds; trials around which none fits are left out.

    Returns:
        Traces, float32 (R, N, T), and labels as recorded: (R,), or (R, D) of a regression on several numbers.
        A missing sample is the neuron's mean over all windows.

    Raises:
        RecordingError: If there are several recordings, or no trial.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin.data import simulate
        >>> dataset = Recordings(simulate(tempfile.mkdtemp(), n_recordings=1, n_units=4, minutes=4))
        >>> traces, label = trial_windows(dataset, "drifting_gratings")
        >>> traces.shape[1:], sorted(set(label.tolist()))[:3]
        ((4, 60), [0, 1, 2])
    """
    if len(dataset.recording_ids) != 1:
        raise RecordingError(
            f"{dataset.dataset_dir}: has {len(dataset.recording_ids)} recordings, whose neurons no array has side by "
            "side; choose one by Recordings(folder, [ID])"
        )
    [name] = dataset.recording_ids
    data = dataset.get_recording(name)
    fitted = fit_task(get_task(task), dataset, {name: split_intervals(data, "train")})
    trials = find_trials(data, fitted, split).that_fit(window_length)
    if len(trials) == 0:
        raise RecordingError(
            f"recording {name}: has no trial of {fitted.name!r} in {split!r} that a window fits around"
        )
    group, _, array = TRACES.partition(".")
    if group not in data.keys():
        raise RecordingError(f"recording {name}: has no {TRACES!r} to cut windows from; spikes must be counted first")
    windows = dataset.windows(fields=[group])
    rate = float(getattr(data, group).sampling_rate)
    n_samples = round(window_length * rate)
    if n_samples < 1:
        raise RecordingError(f"recording {name}: a window of {window_length:g} s holds no sample at {rate:g} Hz")
    low, high = trials.moments(window_length, 0.0)
    starts = np.clip(trials.centre, low, np.maximum(low, high)) - window_length / 2
    # Half a sample more: where a window begins between two samples it may hold one less.
    half = 0.5 * window_length / n_samples
    rows = [
        np.asarray(getattr(getattr(windows[DatasetIndex(name, start, start + window_length + half)], group), array))
        for start in starts.tolist()
    ]
    values = np.stack([row[:n_samples].T for row in rows]).astype(np.float32)
    mean = np.nan_to_num(np.nanmean(values, axis=(0, 2), keepdims=True))
    return np.where(np.isnan(values), mean, values), _as_recorded(fitted, trials.label)


def _as_recorded(task: Task, label: np.ndarray) -> np.ndarray:
    if task.kind != "regression":
        return np.array(task.classes)[label]
    values = label * np.array(task.std) + np.array(task.mean)
    return values[:, 0] if values.shape[1] == 1 else values
