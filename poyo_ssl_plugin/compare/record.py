"""One run, one folder, one record: ``run.json``, written when the run is finished, whole or not at all."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from poyo_ssl_plugin.configuration import flat, without_later
from poyo_ssl_plugin.files import RECORD, write_json
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

# The part of the record that is a comparison's; the rest is what training keeps of its own run.
_PART = "compare"
# Keys of a recipe that do not change the numbers of a run. Where they name what the run reads, the run says it itself.
_FREE = {"out_dir", "resume", "seed", "seeds", "init_from", "data.root", "data.recordings", "data.num_workers"}
_FREE |= {"data.timeout", "diet.table"}
_FREE |= {f"trainer.{name}" for name in ("threads", "progress", "tensorboard", "wandb")}
_FREE |= {f"trainer.{name}" for name in ("save_every_n_steps", "log_every_n_steps")}


class HeldOut(NamedTuple):
    """A fold: the stimulus whose repeats are held out, in how many folds, which this is, and how they are cut."""

    stimulus: str
    folds: int
    number: int
    contiguous: bool = False


@dataclass(frozen=True)
class Run:
    """One training run of a comparison, in plain values.

    Attributes:
        stage: ``"pretrain"`` or ``"finetune"``.
        arm: Name of its arm.
        fold: Which fold is held out; ``None`` takes the recordings' own split.
        seed: Its seed; ``None`` for a pretraining that all seeds share.
        folds: Number of folds.
        stimulus: What folds are made of; ``None`` without.
        recordings: Ids of what it reads.
        neurons: Digest of the scored neurons that it chooses from.
        labels: Digest of the times and labels that it learns from; ``None`` for a pretraining without.
        start: Key of the pretraining that it starts from, if any.
        recipe: Its whole recipe.
        place: Folder that holds the folders of runs.
        contiguous: Whether folds are neighbouring repeats.
    """

    stage: str
    arm: str
    fold: int | None
    seed: int | None
    folds: int
    stimulus: str | None
    recordings: tuple[str, ...]
    neurons: str
    labels: str | None
    start: str | None
    recipe: ReadOnlyValues = field(repr=False)
    place: str
    contiguous: bool = False

    @functools.cached_property
    def key(self) -> str:
        """A digest of all that changes the numbers of the run, and of nothing else."""
        held_out = self.held_out
        said = {
            "stage": self.stage,
            # Interleaved folds leave their kind out, as they did before there was another: old runs stay finished.
            "split": held_out and list(held_out if held_out.contiguous else held_out[:3]),
            "seed": self.seed,
            "root": self.recipe["data"]["root"],
            "recordings": list(self.recordings),
            "neurons": self.neurons,
            "labels": self.labels,
            "start": self.start,
            "recipe": {k: v for k, v in without_later(flat(self.recipe)).items() if k not in _FREE},
        }
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def held_out(self) -> HeldOut | None:
        """What is held out of time; ``None`` of the recordings' own split."""
        return None if self.fold is None else HeldOut(str(self.stimulus), self.folds, self.fold, self.contiguous)

    @property
    def name(self) -> str:
        """Arm, fold and seed; no seed where one pretraining serves all."""
        parts = [self.arm, "recorded" if self.fold is None else f"fold{self.fold}"]
        return "/".join(parts if self.seed is None else [*parts, str(self.seed)])

    @property
    def folder(self) -> Path:
        """Its own folder: runs that differ in their numbers never share one, so none is in the way of another."""
        seed = "" if self.seed is None else f"_seed{self.seed}"
        fold = "" if self.fold is None else f"_fold{self.fold}"
        name = self.recipe["diet"]["rule"] if self.stage == "pretrain" else self.arm
        return Path(self.place, self.stage, f"{name}{fold}{seed}_{self.key}")

    @property
    def checkpoint(self) -> Path:
        """Its last checkpoint."""
        return self.folder / "checkpoints" / "last.ckpt"


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        metrics: Last value of everything that was measured.
        initial: Measured before the first step, of a pretraining.
        leaks: What of the test was seen before, and whether that was allowed.
        seconds: Wall-clock time.
        steps: Steps trained.
        windows: Windows shown.
        value: What the test measured, of a fine-tuning.
        n_test: Number of tested moments.
        trials: The value of each part of the test that counts as a sample.
        trial_names: Their names, where folds test the same parts anew.
    """

    metrics: dict[str, float]
    initial: dict[str, float]
    leaks: Values
    seconds: float
    steps: int
    windows: int
    value: float = 0.0
    n_test: int = 0
    trials: list[float] = field(default_factory=list)
    trial_names: list[str] | None = None


def finished(run: Run) -> Outcome | None:
    """What came of a run that is finished."""
    part = read_record(run.folder).get(_PART)
    if not isinstance(part, dict) or part.get("key") != run.key:
        return None
    return Outcome(**part["outcome"])


def keep(run: Run, outcome: Outcome) -> None:
    """Write down what came of a run, beside what training has kept of it."""
    said = {name: value for name, value in asdict(run).items() if name not in ("recipe", "place")}
    part = {"key": run.key, "run": said, "outcome": asdict(outcome)}
    write_json(run.folder / RECORD, {**read_record(run.folder), _PART: part})


def held_out_by(folder: str | Path) -> HeldOut | None:
    """What the run in a folder held out of time, if it was one on folds."""
    said = read_record(folder).get(_PART, {}).get("run", {})
    if said.get("fold") is None:
        return None
    return HeldOut(said["stimulus"], said["folds"], said["fold"], said.get("contiguous", False))


def read_record(folder: str | Path) -> Values:
    """The record in a folder; empty if there is none that can be read."""
    content = read_json(Path(folder) / RECORD)
    return content if isinstance(content, dict) else {}


def read_json(path: Path) -> object:
    """What a JSON file holds; ``None`` if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
