"""Sets of times: arrays of shape (R, 2), the start and end of each interval in seconds."""

from __future__ import annotations

import numpy as np


def merge_intervals(intervals: np.ndarray) -> np.ndarray:
    """Sort intervals and join those that overlap or touch; drop empty ones. Shape (R, 2) both ways.

    Example:
        >>> merge_intervals(np.array([[5.0, 6.0], [0.0, 2.0], [1.0, 3.0], [4.0, 4.0]])).tolist()
        [[0.0, 3.0], [5.0, 6.0]]
    """
    intervals = np.asarray(intervals).reshape(-1, 2)
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]
    if len(intervals) == 0:
        return intervals
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.flatnonzero(np.r_[True, intervals[1:, 0] > reach[:-1]])
    last = np.r_[first[1:] - 1, len(intervals) - 1]
    return np.stack([intervals[first, 0], reach[last]], axis=1)


def intersect_intervals(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The times that lie in both sets of intervals, merged, shape (R, 2).

    Example:
        >>> intersect_intervals(np.array([[0.0, 4.0], [6.0, 8.0]]), np.array([[3.0, 7.0]])).tolist()
        [[3.0, 4.0], [6.0, 7.0]]
    """
    a, b = merge_intervals(a), merge_intervals(b)
    start = np.maximum(a[:, None, 0], b[None, :, 0])
    end = np.minimum(a[:, None, 1], b[None, :, 1])
    return merge_intervals(np.stack([start, end], axis=-1).reshape(-1, 2))
