"""Data modules: which windows pretraining and fine-tuning see, and how they become batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch_brain.transforms import Compose

from poyo_ssl_plugin.compat import interval
from poyo_ssl_plugin.data import (
    CurriculumSampler,
    DietUnitDropout,
    PredictabilitySampler,
    Recordings,
    SelectUnits,
    Task,
    Trials,
    TrialSampler,
    WindowIndex,
    find_trials,
)
from poyo_ssl_plugin.data.curriculum import LossPacing
from poyo_ssl_plugin.data.dataset import Transform
from poyo_ssl_plugin.data.given_labels import GivenLabels, shuffled
from poyo_ssl_plugin.data.splits import PARTS, Split, part_within
from poyo_ssl_plugin.distributed import Samples, ShardedSampler, gathered, n_processes, process_index
from poyo_ssl_plugin.errors import DietError, RecordingError
from poyo_ssl_plugin.models import Adapter, adapt
from poyo_ssl_plugin.plain import Batch, ReadOnlyValues, State
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
from poyo_ssl_plugin.recordings import unique_ids
from poyo_ssl_plugin.training.activity import Activity
from poyo_ssl_plugin.training.resume import ResumableLoader
from poyo_ssl_plugin.training.tokens import TaskTokenizer, collate_windows

logger = logging.getLogger(__name__)


class DietData(L.LightningDataModule):
    """A :class:`~lightning.pytorch.core.LightningDataModule` of windows on a diet, for pretraining or fine-tuning.

    Args:
        dataset: The recordings; those without a neuron of the diet are left out.
        table: The scored neurons, for standardizing.
        diet: Which neurons to feed.
        split: The times of training, validation and test.
        task: What windows are asked for; ``None`` for nothing.
        window_length: Length of a window in seconds.
        batch_size: Windows per batch.
        num_workers: Worker processes.
        unit_dropout: Arguments of torch_brain's ``TriangleDistribution`` for training windows;
            ``None`` feeds the whole diet always.
        standardize: Give every trace mean 0 and standard deviation 1; spikes stay as they are.
        activity: Which recorded activity the windows are of.
        seed: Seed of the windows.

    Raises:
        DietError: If the diet has no neuron of the recordings.

    Example:
        >>> from types import SimpleNamespace
        >>> rows = [dict(recording_id="a", unit_id=str(i), skewness=9.0 * i, kurtosis=0.0) for i in range(2)]
        >>> dataset, table = SimpleNamespace(recording_ids=["a"]), PredictabilityTable.from_rows(rows)
        >>> options = dict(task=None, window_length=2.0, batch_size=8)
        >>> DietData(dataset, table, Diet.from_thresholds(table), {}, **options).unit_ids
        ['a/0']
    """

    def __init__(
        self,
        dataset: Recordings,
        table: PredictabilityTable,
        diet: Diet,
        split: Split,
        *,
        task: Task | None,
        window_length: float,
        batch_size: int,
        num_workers: int = 0,
        unit_dropout: ReadOnlyValues | None = None,
        standardize: bool = True,
        activity: Activity = Activity(),  # noqa: B008  it never changes
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.table, self.diet, self.split, self.task = table, diet, split, task
        self.window_length = window_length
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.unit_dropout, self.standardize, self.activity = unit_dropout, standardize, activity
        self.recordings = [name for name in dataset.recording_ids if diet.count(name) > 0]
        if not self.recordings:
            raise DietError(
                f"diet {diet.name!r} keeps no neuron ({diet.summary(dataset.recording_ids)}); choose other "
                "thresholds or another diet"
            )
        self.dataset = dataset
        self.adapter: Adapter | None = None

    @property
    def unit_ids(self) -> list[str]:
        """Ids of all neurons of the diet as the dataset knows them, unique by recording, sorted."""
        return sorted(u for name in self.recordings for u in unique_ids(np.array(self.diet.units(name)), name).tolist())

    @property
    def session_ids(self) -> list[str]:
        """Ids of the sessions of the recordings, in their order."""
        return [str(self.dataset.get_recording(name).session.id) for name in self.recordings]

    def attach(self, model: nn.Module) -> None:
        """Say whose tokens the windows become; call it before loading."""
        self.adapter = adapt(model)
        field, scored = self.activity.of(self.adapter), self.table.provenance.get("field")
        if scored is not None and ("." in scored) != ("." in field):
            logger.warning("the diet was scored on %s, and %s is fed %s", scored, type(model).__name__, field)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _loader(
        self, sampler: Samples, *, training: bool, given: Mapping[str, Trials] | None = None
    ) -> DataLoader[Batch]:
        """Batches of a sampler's windows or of a list: a share of them in training, else all in every process."""
        assert self.adapter is not None, "call attach(model) first"
        field = self.activity.of(self.adapter)
        fields = [field.split(".")[0]] + ([self.task.source] if self.task else [])
        dropout = self.unit_dropout if training else None
        transforms: list[Transform] = [
            SelectUnits(self.diet, field) if dropout is None else DietUnitDropout(self.diet, field, **dropout),
            *self.activity.transforms(self.adapter, self.table, standardize=self.standardize),
            *self._label_transforms(training, given),
        ]
        tokens = Compose([*transforms, TaskTokenizer(self.adapter, self.task)])
        windows = self.dataset.windows(self.recordings, tokens, fields)
        if training:
            sampler = ShardedSampler(sampler, n_shards=n_processes(), index=process_index())
        kind = ResumableLoader if training else DataLoader
        return kind(
            windows,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_windows,
            # A generator of its own, so that making an iterator does not advance torch's.
            generator=self._generator(),
            drop_last=training and len(sampler) >= self.batch_size,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _label_transforms(self, training: bool, given: Mapping[str, Trials] | None) -> list[Transform]:
        """Transforms that change what a window is asked for, before it becomes tokens."""
        return []


class PretrainingData(DietData):
    """Random windows of the training time, and evenly spaced windows of the validation time.

    Args:
        stimulus: Only windows inside ``<stimulus>_domain`` of a recording; all time by default.
        curriculum: Pacing of a :class:`~poyo_ssl_plugin.CurriculumSampler` that opens the diet from its most
            predictable neurons on, by name; ``None`` feeds all of it from the start.
        curriculum_start: Share of the diet that is open at the start.
        curriculum_fraction: Share of the training after which it is fully open.
        max_valid_windows: How many windows to validate on.
        **options: As :class:`DietData`.

    Raises:
        DietError: If the curriculum is unknown or a share is out of range.

    Example:
        >>> from types import SimpleNamespace
        >>> dataset, options = SimpleNamespace(recording_ids=["a"]), dict(task=None, window_length=2.0, batch_size=8)
        >>> table = PredictabilityTable.from_rows([dict(recording_id="a", unit_id="0", skewness=1.0, kurtosis=0.0)])
        >>> split = {"train": {"a": np.array([[0.0, 60.0]])}, "valid": {"a": np.array([[60.0, 80.0]])}}
        >>> len(PretrainingData(dataset, table, Diet.everything(table), split, **options).sampler)  # windows an epoch
        30
    """

    def __init__(
        self,
        *args: Any,
        stimulus: str | None = None,
        curriculum: str | None = None,
        curriculum_start: float = 0.2,
        curriculum_fraction: float = 0.7,
        max_valid_windows: int = 256,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        fed = {part: {name: times[name] for name in self.recordings} for part, times in self.split.items()}
        self.train_times = part_within(fed["train"], self.dataset, stimulus)
        self.valid_times = {}
        if any(len(times) for times in fed["valid"].values()):
            self.valid_times = part_within(fed["valid"], self.dataset, stimulus)
        make: Callable[..., PredictabilitySampler] = PredictabilitySampler
        if curriculum is not None:
            # How many epochs these are is known when training starts.
            make = partial(
                CurriculumSampler, pacing=curriculum, epochs=curriculum_fraction, start_fraction=curriculum_start
            )
        self.sampler = make(
            sampling_intervals={name: interval(times) for name, times in self.train_times.items()},
            window_length=self.window_length,
            generator=self._generator(),
            diet=self.diet,
        )
        self.curriculum_fraction = curriculum_fraction
        pacing = getattr(self.sampler, "pacing", None)
        self._loss_pacing = pacing if isinstance(pacing, LossPacing) else None
        try:
            len(self.sampler)
        except ValueError as error:
            raise RecordingError(f"{error} Set data.window_length lower") from None
        self.max_valid_windows = max_valid_windows

    def train_dataloader(self) -> DataLoader[Batch]:
        if isinstance(self.sampler, CurriculumSampler):
            self.sampler.epochs = self.curriculum_fraction * self._epochs_to_train()
        return self._loader(self.sampler, training=True)

    def observe(self, loss: torch.Tensor) -> None:
        """See the training loss of a step, for a curriculum that is paced by it."""
        if self._loss_pacing is not None:
            # Only here: reading a loss makes an accelerator wait. All processes open the diet together.
            losses = gathered(float(loss))
            self._loss_pacing.observe(sum(losses) / len(losses))

    def state_dict(self) -> State:
        """How far a curriculum that is paced by loss has come."""
        return {} if self._loss_pacing is None else self._loss_pacing.state_dict()

    def load_state_dict(self, state_dict: State) -> None:
        if self._loss_pacing is not None:
            self._loss_pacing.load_state_dict(state_dict)

    def _epochs_to_train(self) -> float:
        """Length of the training in epochs, as the trainer was told it: by steps, by epochs, or the shorter."""
        trainer: L.Trainer | None = self.trainer
        assert trainer is not None, "a curriculum needs a trainer, which knows how long it is"
        n_batches = len(self.sampler) // (self.batch_size * n_processes())
        steps_per_epoch = max(n_batches, 1) / trainer.accumulate_grad_batches
        lengths = [float(trainer.max_epochs)] if trainer.max_epochs not in (None, -1) else []
        lengths += [trainer.max_steps / steps_per_epoch] if trainer.max_steps > 0 else []
        return min(lengths, default=1.0)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        windows = _tile(self.valid_times, self.window_length, self.max_valid_windows)
        return self._loader(windows, training=False) if windows else []


class FinetuningData(DietData):
    """Windows around labelled moments: jittered and repeated for training, centred for validation and test.

    Args:
        shuffle_labels: Give the training trials of a recording each other's labels, a control: the test must
            then come out at chance.
        label_fraction: Train on so many of the labelled trials, the earliest of each class and recording: how much
            pretraining is worth depends on how much is labelled.
        **options: As :class:`DietData`; ``task`` is required.

    Raises:
        RecipeError: If ``label_fraction`` is not in (0, 1].

    Example:
        >>> from types import SimpleNamespace
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> turns = {"start": np.arange(10) * 4, "end": np.arange(10) * 4 + 3, "turn": ["left", "right"] * 5}
        >>> data = recording_from_arrays(np.zeros((400, 2)), recording="a", sampling_rate=10.0, trials=turns)
        >>> dataset = SimpleNamespace(recording_ids=["a"], get_recording=lambda name: data)
        >>> table = PredictabilityTable.from_rows([dict(recording_id="a", unit_id="0", skewness=1.0, kurtosis=0.0)])
        >>> times = {"train": [[0.0, 24.0]], "valid": [], "test": [[24.0, 40.0]]}
        >>> split = {part: {"a": np.array(pairs)} for part, pairs in times.items()}
        >>> task = Task("turn", source="trials", label="turn", classes=("left", "right"))
        >>> options = dict(task=task, window_length=2.0, batch_size=8, label_fraction=0.5)
        >>> windows = FinetuningData(dataset, table, Diet.everything(table), split, **options)
        >>> {part: len(windows.trials(part)["a"]) for part in ("train", "test")}  # 4 of 6 trials are labelled
        {'train': 4, 'test': 4}
    """

    delay: float = 0.0  # seconds from the decoded moment to the middle of its window

    def __init__(self, *args: Any, shuffle_labels: bool = False, label_fraction: float = 1.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.shuffle_labels, self.label_fraction = shuffle_labels, label_fraction
        assert self.task is not None
        self.recordings = [
            name for name in self.recordings if self.task.source in self.dataset.get_recording(name).keys()
        ]
        if not self.recordings:
            raise RecordingError(
                f"no recording of {self.dataset.dataset_dir} has {self.task.source!r}, which the task "
                f"{self.task.name!r} decodes; 'poyo-ssl tasks {self.dataset.dataset_dir}' lists what they have"
            )
        self._adopted: dict[str, Trials] = {}
        self.samplers = {part: self._sampler(part) for part in PARTS if self._has_time(part)}

    def train_dataloader(self) -> DataLoader[Batch]:
        sampler = self.samplers["train"]
        # Enough windows that an epoch, and its overhead, is not over after a handful of batches.
        windows = 16 * self.batch_size * n_processes()
        sampler.repeats = max(1, windows // len(sampler.times))
        return self._loader(sampler, training=True)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        return self._loader(self.samplers["valid"], training=False) if "valid" in self.samplers else []

    def test_dataloader(self) -> DataLoader[Batch]:
        return self._loader(self.samplers["test"], training=False)

    def labelled_windows(self, repeats: int = 5) -> DataLoader[Batch]:
        """Jittered windows of the labelled training trials, with all neurons, once."""
        trials = self.trials("train")
        return self._loader(self._trial_sampler(trials, jitter=True, repeats=repeats), training=False, given=trials)

    def unlabelled_trials(self) -> DataLoader[Batch] | None:
        """One window per trial of the training time whose label is not used; ``None`` if there is none.

        The batches hold true labels, which nothing may learn from.
        """
        labelled = self._labelled("train")
        rest = {name: self._find(name, "train").without(labelled[name].centre) for name in self.recordings}
        if not any(map(len, rest.values())):
            return None
        return self._loader(self._trial_sampler(rest, jitter=False), training=False)

    def adopt(self, recording_ids: list[str], times: np.ndarray, labels: np.ndarray) -> None:
        """Take these training trials as labelled from now on.

        Args:
            recording_ids: Recording of each trial.
            times: Their centres in seconds, (R,).
            labels: Their classes, int64 (R,).
        """
        for name in self.recordings:
            own = np.array([name == other for other in recording_ids])
            every = self._find(name, "train")
            if not own.any():
                continue
            rows = np.abs(every.centre[None] - times[own][:, None]).argmin(axis=1)
            self._adopted[name] = replace(every[rows], label=labels[own])
        self.samplers["train"] = self._sampler("train")

    def _label_transforms(self, training: bool, given: Mapping[str, Trials] | None) -> list[Transform]:
        assert self.task is not None
        if given is None and training and (self.shuffle_labels or self._adopted):
            given = self.trials("train")
        return [] if given is None else [GivenLabels(self.task, given)]

    def trials(self, part: str) -> dict[str, Trials]:
        """The trials of a part that a window fits around, by recording; of training those labelled, or guessed.

        References that decode these have the very trials that the model has.
        """
        return {name: of.that_fit(self.window_length, self.delay) for name, of in self._labelled(part).items()}

    def _labelled(self, part: str) -> dict[str, Trials]:
        if part != "train":
            return {name: self._find(name, part) for name in self.recordings}
        found = {name: self._find(name, part).first_of_each_class(self.label_fraction) for name in self.recordings}
        if self.shuffle_labels:
            found = shuffled(found, self.seed)
        return {name: of.joined(self._adopted[name]) if name in self._adopted else of for name, of in found.items()}

    def _find(self, recording: str, part: str) -> Trials:
        """All trials of a recording in the times of a part."""
        assert self.task is not None
        return find_trials(self.dataset.get_recording(recording), self.task, None, self.split[part][recording])

    def _has_time(self, part: str) -> bool:
        return any(len(self.split[part][name]) for name in self.recordings)

    def _sampler(self, part: str) -> TrialSampler:
        return self._trial_sampler(self._labelled(part), jitter=part == "train")

    def _trial_sampler(self, trials: Mapping[str, Trials], *, jitter: bool, repeats: int = 1) -> TrialSampler:
        return TrialSampler(
            trials, window_length=self.window_length, jitter=jitter, generator=self._generator(), repeats=repeats
        )


def _tile(times: Mapping[str, np.ndarray], length: float, limit: int) -> list[WindowIndex]:
    """Side by side windows of all intervals, thinned out evenly to at most ``limit``."""
    windows = [
        WindowIndex(name, float(start), float(start) + length)
        for name, pairs in times.items()
        for low, high in pairs
        for start in np.arange(low, high - length + 1e-9, length)
    ]
    if len(windows) <= limit:
        return windows
    return [windows[i] for i in np.linspace(0, len(windows) - 1, limit).round().astype(int)]
