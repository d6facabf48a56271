"""From a window to a sample: the model's tokens, what is asked of it, and the answer."""

from __future__ import annotations

import numpy as np
import torch

from poyo_ssl_plugin.compat import Data, collate, pad
from poyo_ssl_plugin.data import Task, find_targets
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.models import Adapter
from poyo_ssl_plugin.plain import Batch
from poyo_ssl_plugin.recordings import recording_id


class TaskTokenizer:
    """The last transform: tokens by the model, queries and targets by the task.

    A window without a labelled moment is asked once, in its middle, with a target that losses ignore.

    Args:
        adapter: How to ask the model.
        task: The task, or ``None`` for windows without labels.
    """

    def __init__(self, adapter: Adapter, task: Task | None) -> None:
        self.adapter = adapter
        self.task = task

    def __call__(self, data: Data) -> dict[str, object]:
        start, middle = float(data.absolute_start), data.domain.end[-1] / 2
        times, labels = (np.empty(0), np.empty(0)) if self.task is None else find_targets(data, self.task)
        if len(times) == 0:
            times, labels = np.array([middle]), self._no_label()
        return {
            "inputs": self.adapter.inputs(data, np.asarray(times), self.task.name if self.task else None),
            # Tensors: collate would make them of arrays at five times the cost.
            "target": pad(torch.from_numpy(np.array(labels))),
            "asked": pad(torch.from_numpy(np.ones(len(times), dtype=bool))),
            "recording_id": recording_id(data),
            "start": start,
        }

    def _no_label(self) -> np.ndarray:
        """The target of a moment without one: a class to ignore (1,), or NaN (1, D)."""
        if self.task is None or self.task.kind != "regression":
            return np.array([IGNORED])
        return np.full((1, self.task.n_outputs), np.nan, dtype=np.float32)


def collate_windows(samples: list[dict[str, object]]) -> Batch:
    """A batch of samples: padded by torch_brain's ``collate``, padding marked as not to be asked."""
    batch: Batch = collate(samples)
    padding = ~batch["asked"]
    if batch["target"].ndim == 3:
        batch["target"] = batch["target"].masked_fill(padding[..., None], float("nan"))
    else:
        batch["target"] = batch["target"].masked_fill(padding, IGNORED)
    if "output_task_index" in batch["inputs"]:
        batch["inputs"]["output_task_index"] = batch["inputs"]["output_task_index"].masked_fill(padding, -1)
    return batch


def answered(
    adapter: Adapter, output: torch.Tensor | dict[str, torch.Tensor], batch: Batch, task: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers (K, D_out) and targets, (K,) or (K, D), of the real queries of a batch."""
    return adapter.answers(output, batch["asked"], task), batch["target"][batch["asked"]]
