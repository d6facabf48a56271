"""How fast a training is: windows per second, and the share of a device's peak that the model's work takes."""

from __future__ import annotations

import time
import warnings

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops

from poyo_ssl_plugin.models.flops import measure_cost
from poyo_ssl_plugin.plain import Batch
from poyo_ssl_plugin.training.run_folder import RunRecord


class Throughput(L.Callback):
    """Counts windows and time of training; validation is not part of it, loading is.

    Args:
        record: The record of the run, which is told when training ends.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self._seconds = 0.0
        self._mark: float | None = None
        # The first step, which may compile or warm up, counts in neither.
        self._windows, self._steady_seconds, self._started = 0, 0.0, False
        self._flops, self._peak = 0, 0.0

    def measured(self) -> dict[str, float]:
        """What ``run.json`` keeps: no more than is known.

        Returns:
            ``training_seconds``; ``windows_per_second`` of all processes, from the second step on; ``gflop_per_window``
            of the model, forward and back, as ``torch.utils.flop_counter`` counts matrix products; and
            ``flop_utilisation``, the share of the peak of the GPUs for the precision, where that is known.
        """
        found = {"training_seconds": self._seconds, "gflop_per_window": self._flops / 1e9}
        if self._steady_seconds:
            found["windows_per_second"] = self._windows / self._steady_seconds
            if self._peak:
                found["flop_utilisation"] = found["windows_per_second"] * self._flops / self._peak
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    def __str__(self) -> str:
        found = self.measured()
        parts = [f"{found['windows_per_second']:.3g} windows/s"] if "windows_per_second" in found else []
        parts += [f"{found['flop_utilisation']:.0%} of peak"] if "flop_utilisation" in found else []
        return ", ".join(parts)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = None
        self._peak = trainer.world_size * peak_flops(pl_module.device, str(trainer.precision))

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, *_: object) -> None:
        if self._mark is None:
            if not self._flops:
                cost = measure_cost(pl_module.model, batch["inputs"], len(batch["target"]))
                self._flops = cost.training_flops
            self._mark = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: Batch, batch_idx: int
    ) -> None:
        assert self._mark is not None
        now = time.monotonic()
        self._seconds += now - self._mark
        if self._started:
            self._steady_seconds += now - self._mark
            self._windows += len(batch["target"]) * trainer.world_size
        self._started, self._mark = True, now

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._started:
            self.record.speed = self.measured()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._mark is not None:
            self._mark = time.monotonic()


def peak_flops(device: torch.device, precision: str) -> float:
    """Floating-point operations a second that a device can do at most, by Lightning's table; 0 if it has none.

    Example:
        >>> peak_flops(torch.device("cpu"), "32-true")
        0.0
    """
    if device.type != "cuda":
        return 0.0
    dtype = {"b": torch.bfloat16, "1": torch.float16}.get(precision[0], torch.float32)
    with warnings.catch_warnings():
        # It warns of a device that it does not know.
        warnings.simplefilter("ignore")
        return float(get_available_flops(device, dtype) or 0)
