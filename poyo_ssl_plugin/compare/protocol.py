"""What is compared: the settings of a comparison, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from poyo_ssl_plugin.compare.arms import POYO_SSL, SCRATCH
from poyo_ssl_plugin.compare.executors import Executor, LocalExecutor, RayExecutor
from poyo_ssl_plugin.data import Task, get_task
from poyo_ssl_plugin.frames import FRAMES_TASK
from poyo_ssl_plugin.plain import ReadOnlyValues
from poyo_ssl_plugin.recordings import TRACES

DEFAULT_ARMS = (POYO_SSL, SCRATCH)
# Settings that say how runs are done and do not change their numbers.
EXECUTION = ("processes", "ray", "num_cpus", "num_gpus")


@dataclass(frozen=True)
class Comparison:
    """What is compared, in plain values.

    Attributes:
        root: Folder of the recordings.
        out_dir: Folder of everything that is written.
        task: What is decoded: a classification, or ``"natural_movie_frames"``, whose frames are reconstructed.
        arms: Names of arms (``docs/compare.md`` lists them), or mappings with the attributes of
            :class:`~poyo_ssl_plugin.compare.arms.Arm`.
        recordings: Ids of the recordings to use; all if empty.
        field: The activity to score and decode, as of :func:`~poyo_ssl_plugin.score_dataset`; ``"spikes"`` goes with
            ``model=poyo`` in both ``pretrain`` and ``finetune``; other models read counts in bins of 0.1 s.
        held_out: Ids of the recordings kept from pretraining and decoded instead; if empty, pretraining
            and decoding share recordings but no neuron.
        decode_fraction: Without ``held_out``, the fraction of the unpredictable neurons that is decoded. At 1 only
            arms that pretrain on none of them can take part; below 1 the others are there for any arm.
        folds: Hold out repeats of the task's stimulus in so many folds; 0 takes the recorded split.
        contiguous_folds: A fold holds neighbouring repeats, instead of every ``folds``-th one.
        seeds: Seeds of fine-tuning.
        pretrain_each_seed: Pretrain anew for every seed, so that intervals hold for pretraining too. By default
            the seeds of a fold share one pretraining.
        pretrain: Overrides of the recipe ``pretrain``, the same for all arms.
        finetune: Overrides of the fine-tuning recipe, the same for all arms.
        allow_leak: Accept that scoring or pretraining saw neurons or times of the test; the results say what and where.
        scratch_dir: Folder of the runs that start from random weights, if not ``out_dir``: comparisons that
            differ in pretraining only can share them.
        pretrain_dir: Folder of the pretraining runs, if not ``out_dir``: comparisons that differ in fine-tuning only
            can share them.
        processes: Runs at once on this machine; 0 for one per core, at most eight.
        ray: Do the runs on a Ray cluster instead.
        num_cpus: Cores that a run asks Ray for.
        num_gpus: GPUs that a run asks Ray for, fractions too; with 0 runs see none.
    """

    root: str
    out_dir: str
    task: str = "drifting_gratings"
    arms: tuple[str | ReadOnlyValues, ...] = DEFAULT_ARMS
    recordings: tuple[str, ...] = ()
    field: str = TRACES
    held_out: tuple[str, ...] = ()
    decode_fraction: float = 1.0
    folds: int = 0
    contiguous_folds: bool = False
    seeds: tuple[int, ...] = (0, 1, 2)
    pretrain_each_seed: bool = False
    pretrain: tuple[str, ...] = ()
    finetune: tuple[str, ...] = ()
    allow_leak: bool = False
    scratch_dir: str = ""
    pretrain_dir: str = ""
    processes: int = 0
    ray: bool = False
    num_cpus: float = 1.0
    num_gpus: float = 0.0

    @property
    def executor(self) -> Executor:
        """Where its runs are done; the numbers are the same wherever."""
        return RayExecutor(self.num_cpus, self.num_gpus) if self.ray else LocalExecutor(self.processes)

    def runs_in(self, folder: str) -> str:
        """Where runs are kept: in ``folder``, or in ``out_dir`` if it is empty."""
        return str(Path(folder or self.out_dir, "runs").absolute())


def decoded_task(name: str) -> Task:
    """A task that can be compared, by name.

    Raises:
        RecipeError: If there is none of that name.
    """
    return FRAMES_TASK if name == FRAMES_TASK.name else get_task(name)
