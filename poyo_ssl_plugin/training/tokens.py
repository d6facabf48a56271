"""From a window to a sample: the model's tokens, what is asked of it, and the answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from poyo_ssl_plugin.compat import Data, collate, pad
from poyo_ssl_plugin.data import Task, find_targets
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.recordings import recording_id


class TaskTokenizer:
    """The last transform: tokens by the model, queries and targets by the task.

    A window without a labelled moment is asked once, in its middle, with a target that losses ignore.

    Args:
        tokenize: ``model.tokenize`` of a POYO-family model.
        task: The task, or ``None`` for windows without labels.
        task_index: Number of the task's readout in a model with several.
    """

    def __init__(self, tokenize: Callable[[Data], dict[str, Any]], task: Task | None, task_index: int = 0) -> None:
        self.tokenize = tokenize
        self.task = task
        self.task_index = task_index

    def __call__(self, data: Data) -> dict[str, Any]:
        inputs = self.tokenize(data)
        times, labels = (np.empty(0), np.empty(0)) if self.task is None else find_targets(data, self.task)
        if len(times) == 0:
            times, labels = np.array([data.domain.end[-1] / 2]), np.array([IGNORED])
        inputs["output_timestamps"] = _padded(times, np.float32)
        inputs["output_task_index"] = _padded(np.full(len(times), self.task_index), np.int64)
        return {
            "inputs": inputs,
            "target": _padded(labels, np.int64),
            "target_mask": _padded(np.ones(len(times)), bool),
            "recording_id": recording_id(data),
            "start": float(data.absolute_start),
        }


def _padded(values: np.ndarray, dtype: Any) -> Any:
    return pad(torch.from_numpy(np.array(values, dtype=dtype)))


def collate_windows(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """A batch of samples: padded by torch_brain's ``collate``, padding marked as not to be asked."""
    batch = collate(samples)
    padding = ~batch.pop("target_mask")
    batch["target"] = batch["target"].masked_fill(padding, IGNORED)
    batch["inputs"]["output_task_index"] = batch["inputs"]["output_task_index"].masked_fill(padding, -1)
    return batch


def asked(target: torch.Tensor, task_index: torch.Tensor) -> torch.Tensor:
    """Targets of the real queries of a batch, in the order in which a readout returns them, (K,)."""
    return target[task_index >= 0]
