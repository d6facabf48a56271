"""Going on as if nothing had happened: everything that a run needs to continue bit for bit on a CPU.

Lightning's checkpoints hold weights, optimiser, schedule and counters. What is missing is where the
sampler was, the state of every random generator, and what metrics had gathered. :class:`ResumableLoader`
knows the first, :class:`ResumePoint` keeps the others and chooses moments at which all of it is settled.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.utils.data import DataLoader, Dataset, Sampler
from torchmetrics import Metric

from poyo_ssl_plugin.distributed import Samples, gathered, n_processes, process_index
from poyo_ssl_plugin.errors import Terminated
from poyo_ssl_plugin.plain import State

logger = logging.getLogger(__name__)

_Sample = TypeVar("_Sample", covariant=True)

# How often processes ask each other whether one of them was told to stop; a GPU waits for the answer.
_STEPS_BETWEEN_ASKING = 10


class _Position(Sampler[object]):
    """A sampler that can leave out the front of an epoch."""

    def __init__(self, sampler: Samples) -> None:
        self.sampler = sampler
        self.skip = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[object]:
        skip, self.skip = self.skip, 0
        for i, index in enumerate(self.sampler):
            if i >= skip:
                yield index

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, to samplers that want to know."""
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


class ResumableLoader(DataLoader[_Sample]):
    """A ``DataLoader`` that knows where in its epoch it is and can go on there.

    Lightning saves and restores it through ``state_dict`` and ``load_state_dict``. No sample that was
    seen is read again.

    Args:
        dataset: The dataset.
        sampler: The sampler; its ``generator`` is the source of all randomness of an epoch's order.
        **options: As ``DataLoader``.

    Example:
        >>> from torch.utils.data import RandomSampler
        >>> def loader():
        ...     numbers = torch.arange(6)
        ...     return ResumableLoader(
        ...         numbers, sampler=RandomSampler(numbers, generator=torch.Generator().manual_seed(1)), batch_size=2
        ...     )
        >>> first, second = loader(), loader()
        >>> batches = iter(first)
        >>> _ = next(batches)
        >>> second.load_state_dict(first.state_dict())
        >>> [a.tolist() for a in batches] == [b.tolist() for b in second]
        True
    """

    def __init__(self, dataset: Dataset[_Sample], *, sampler: Samples, **options: Any) -> None:
        self._position = _Position(sampler)
        self._start: torch.Tensor | None = None
        self._given = 0
        self._pending: State | None = None
        super().__init__(dataset, sampler=self._position, **options)

    def __iter__(self) -> Any:
        # Nothing is drawn before the first batch is asked for: Lightning makes iterators it does not use.
        generator = getattr(self._position.sampler, "generator", None)
        state, self._pending = self._pending, None
        self._given = 0
        if state is not None:
            # Windows count, of all processes together: their number may have changed since.
            self._given = state["batches"] * state.get("processes", 1) // self._n_shards
            if generator is not None and state["generator"] is not None:
                generator.set_state(state["generator"])
        self._start = None if generator is None else generator.get_state()
        self._position.skip = self._given * (self.batch_size or 1)
        for batch in super().__iter__():
            self._given += 1
            yield batch

    def state_dict(self) -> State:
        """Where the loader is: the generator's state when the epoch began, and the batches given since."""
        if self._pending is not None:
            return self._pending
        generator = getattr(self._position.sampler, "generator", None)
        if self._given >= len(self) or self._start is None:
            return {"generator": None if generator is None else generator.get_state(), "batches": 0}
        return {"generator": self._start, "batches": self._given, "processes": self._n_shards}

    @property
    def _n_shards(self) -> int:
        return getattr(self._position.sampler, "n_shards", 1)

    def load_state_dict(self, state_dict: State) -> None:
        """Go on from what :meth:`state_dict` said, at the next iteration."""
        self._pending = dict(state_dict)


def random_states() -> State:
    """The states of Python's, NumPy's and torch's global generators, in plain values and tensors."""
    numpy_state = np.random.get_state(legacy=False)
    states: State = {
        "python": random.getstate(),
        "numpy": {
            **numpy_state,
            "state": {"key": numpy_state["state"]["key"].tolist(), "pos": numpy_state["state"]["pos"]},
        },
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states


def restore_random_states(states: State) -> None:
    """Put every generator into the state that :func:`random_states` said.

    Example:
        >>> states = random_states()
        >>> before = torch.rand(3)
        >>> restore_random_states(states)
        >>> bool((before == torch.rand(3)).all())
        True
    """
    version, key, gauss = states["python"]
    random.setstate((version, tuple(key), gauss))
    numpy_state = states["numpy"]
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {"key": key, "pos": numpy_state["state"]["pos"]}})
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


class ResumePoint(Checkpoint):
    """Saves the last state every so many steps, restores all of it, and stops in order on SIGTERM and Ctrl-C.

    A state is saved where nothing is pending: after the validation of a step that has one, else before the
    next step, when the log has the last one, but not at the end of an epoch, whose metrics have not been said
    yet. The next step has its batch by then, so what fetching it moves is noted before.

    Args:
        path: Where to save.
        every_n_steps: How often.
    """

    def __init__(self, path: str | Path, *, every_n_steps: int) -> None:
        self.path = Path(path)
        self.every_n_steps = every_n_steps
        self.carried: dict[str, float] = {}
        self.trained = False
        self._settled: State | None = None
        self._pending: State | None = None
        self._due = False
        self._accumulates = False
        self._stop = False
        self._asked = False
        self._why = "SIGTERM"
        self._previous: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: State) -> None:
        """Add the random states and metrics, and see that the log is not behind the checkpoint."""
        for log in trainer.loggers:
            log.save()
        settled = self._settled or self._moving(trainer)
        if self._settled is not None:
            # The batch that was fetched since is fetched again.
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
            progress["is_last_batch"] = False
            for counts in (progress["total"], progress["current"]):
                counts["ready"] -= 1
        own = {
            "random": settled["random"],
            "gathered": {name: metric.metric_state for name, metric in _metrics(pl_module)},
        }
        # One file for all processes; each has random states and metrics of its own.
        every = {"processes": gathered(own)} if n_processes() > 1 else {}
        checkpoint["resume"] = {
            **own,
            **every,
            "loader": settled["loader"],
            "logged": {**self.carried, **{name: float(value) for name, value in trainer.callback_metrics.items()}},
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: State) -> None:
        """Keep what is to be restored until training starts, after all that draws random numbers before it."""
        self._pending = checkpoint.get("resume")

    def restore(self, module: L.LightningModule) -> None:
        """Restore what the checkpoint held, once."""
        state, self._pending = self._pending, None
        if state is None:
            return
        self.carried = dict(state["logged"])
        saved = state.get("processes", [state])
        if len(saved) != n_processes():
            logger.warning(
                "the run was on %d processes and goes on on %d: at the same window, with the same weights, but not as "
                "it would have gone on before",
                len(saved),
                n_processes(),
            )
        state = saved[process_index() % len(saved)]
        metrics = dict(_metrics(module))
        for name, values in state["gathered"].items():
            if name in metrics:
                for key, value in values.items():
                    setattr(metrics[name], key, value.to(metrics[name].device))
                # Without this torchmetrics warns that nothing was gathered.
                metrics[name]._update_count = 1
        restore_random_states(state["random"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trained = True
        # Lightning restores the loader too, but not where a run is counted in epochs.
        if self._pending is not None and _loader_state(trainer) is not None:
            trainer.train_dataloader.load_state_dict(self._pending["loader"])
        self.restore(pl_module)
        if threading.current_thread() is threading.main_thread():
            # Takes the place of Lightning's own, which stops without saving.
            self._previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._ask_to_stop)
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
                self._previous[signal.SIGINT] = signal.signal(signal.SIGINT, self._ask_to_stop)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        n_batches = batch_idx + 1
        self._accumulates = n_batches % trainer.accumulate_grad_batches > 0 and n_batches < trainer.num_training_batches
        if self._accumulates:
            # Gradients that wait for those of the next batches are in no checkpoint.
            return
        # After the last step of all the run saves anyway, and only then have all hooks been called.
        last_of_all = trainer.global_step >= trainer.estimated_stepping_batches
        self._due = (self._due or trainer.global_step % self.every_n_steps == 0) and not last_of_all
        last_of_epoch = n_batches >= trainer.num_training_batches > 1
        if trainer.world_size == 1 or trainer.global_step % _STEPS_BETWEEN_ASKING == 0:
            # All processes save or none: a signal reaches them at different steps.
            self._stop = bool(trainer.strategy.reduce_boolean_decision(self._asked, all=False))
        if (self._due or self._stop) and not _validates_next(trainer) and not last_of_epoch:
            self._settled = self._moving(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if self._settled is not None:
            self._save_if_due(trainer)
            self._settled = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size == 1:
            self._stop = self._asked
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self._accumulates:
            self._save_if_due(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._release_signal()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._release_signal()

    def _save_if_due(self, trainer: L.Trainer) -> None:
        if self._due or self._stop:
            self._due = False
            trainer.save_checkpoint(self.path)
        if self._stop:
            message = f"stopped on {self._why} after step {trainer.global_step}; start again with resume=true to go on"
            logger.warning("%s (%s)", message, self.path)
            raise Terminated(message)

    @staticmethod
    def _moving(trainer: L.Trainer) -> State:
        """What fetching a batch moves."""
        return {"random": random_states(), "loader": _loader_state(trainer)}

    def _ask_to_stop(self, number: int, _: object) -> None:
        self._asked = True
        if number == signal.SIGINT:
            self._why = "Ctrl-C"
            # A second one does not wait for the step to end.
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _release_signal(self) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}


def _validates_next(trainer: L.Trainer) -> bool:
    """Whether a validation follows the training step that just ended."""
    every = trainer.val_check_batch
    if not trainer.enable_validation or not sum(trainer.num_val_batches) or not isinstance(every, int):
        return False
    return (trainer.fit_loop.total_batch_idx + 1) % every == 0


def _loader_state(trainer: L.Trainer) -> State | None:
    loader = trainer.train_dataloader
    return loader.state_dict() if isinstance(loader, ResumableLoader) else None


def _metrics(module: torch.nn.Module) -> list[tuple[str, Metric]]:
    return [(name, part) for name, part in module.named_modules() if isinstance(part, Metric)]
