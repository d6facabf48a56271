"""What ``results.json`` holds: the fields of these dataclasses are its keys."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from poyo_ssl_plugin.compare.arms import SCRATCH
from poyo_ssl_plugin.compare.estimates import Estimate, PairedComparison, Scores, compare_scores, unit_means
from poyo_ssl_plugin.plain import ReadOnlyValues, Values
from poyo_ssl_plugin.provenance import git_revision, versions
from poyo_ssl_plugin.training import Decoding, Metric, decoding_kind

__all__ = ["ArmScores", "TestedRun"]


def to_json(content: object) -> Any:
    """Dataclasses as plain JSON values; ``further`` numbers stand beside the fields.

    Example:
        >>> to_json({"template": TestedDecoder(0.5, 20, None, {"psnr": 12.0})})
        {'template': {'value': 0.5, 'n_test': 20, 'ci95': None, 'trials': [], 'psnr': 12.0}}
    """
    if dataclasses.is_dataclass(content):
        values = {name: to_json(value) for name, value in vars(content).items()}
        further = values.pop("further", {})
        return values | further
    if isinstance(content, Mapping):
        return {str(key): to_json(value) for key, value in content.items()}
    return [to_json(item) for item in content] if isinstance(content, list | tuple) else content


@dataclass(frozen=True)
class TestedRun:
    """The test of one fine-tuning run: its value over ``n_test`` moments, and further numbers of it by name.

    Example:
        >>> run = TestedRun(seed=0, value=0.625, n_test=48)
        >>> run.value * run.n_test  # trials that were named right
        30.0
    """

    __test__ = False  # not one of pytest's

    seed: int | None
    value: float
    n_test: int
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ComparedRun(TestedRun):
    """A fine-tuning run of a comparison; without a fold it was tested on the recorded split."""

    fold: int | None
    seconds: float
    steps: int
    windows: int


@dataclass(frozen=True)
class TestedDecoder:
    """A simple decoder on the same trials.

    Attributes:
        value: What was measured.
        n_test: Number of tested moments.
        ci95: Its 95 % interval over trials.
        further: Other numbers of the same test, by name.
        trials: What it reached on each trial, fold by fold, in the order in which the arms are tested.
    """

    __test__ = False

    value: float
    n_test: int
    ci95: list[float] | None
    further: Mapping[str, float] = field(default_factory=dict)
    trials: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class ArmScores:
    """What an arm reached.

    Attributes:
        metric: Name of what was measured.
        runs: Its runs.
        mean: Their mean; of folds, the mean over folds.
        ci95: Interval over runs and trials; ``None`` of one run.
        trials_ci95: Interval over trials alone.

    Example:
        >>> runs = [TestedRun(seed=0, value=0.6, n_test=48), TestedRun(seed=1, value=0.7, n_test=48)]
        >>> scores = ArmScores("accuracy", runs, mean=0.65, ci95=[0.5, 0.8], trials_ci95=None)
        >>> max(run.value for run in scores.runs)
        0.7
    """

    metric: str
    runs: Sequence[TestedRun]
    mean: float
    ci95: list[float] | None
    trials_ci95: list[float] | None


@dataclass(frozen=True)
class Spent:
    """What some runs cost in all; ``seconds`` are of wall-clock time."""

    runs: int
    seconds: float
    steps: int
    windows: int


@dataclass(frozen=True)
class Compute:
    """What an arm cost, sharing its pretraining with nobody."""

    pretraining: Spent
    finetuning: Spent


@dataclass(frozen=True)
class VersusDecoder:
    """An arm against a simple decoder on the same trials.

    Attributes:
        value: What the decoder reached.
        mean: How far the arm is above it.
        ci95: Interval of that, over pairs of the same fold or trial; ``None`` of one run.
    """

    value: float
    mean: float
    ci95: list[float] | None


@dataclass(frozen=True, kw_only=True)
class VersusScratch(PairedComparison):
    """An arm against training from scratch.

    Attributes:
        n_trials: Test trials that both share.
        p_holm: ``p`` adjusted for the number of arms.
        over_trials: The difference over trials alone, the runs taken as given.
    """

    n_trials: int
    p_holm: float | None
    over_trials: Estimate


@dataclass(frozen=True, kw_only=True)
class ArmResult(ArmScores):
    """An arm of a comparison.

    Attributes:
        title: What the arm is.
        n_trials: Number of test trials.
        p_above_chance: Two-sided p that its mean is chance, where there is chance.
        versus_decoders: Against each simple decoder, by its name.
        compute: What it cost.
        versus_scratch: Against training from scratch, if that took part.
    """

    runs: Sequence[ComparedRun]
    title: str
    n_trials: int
    p_above_chance: float | None
    versus_decoders: Mapping[str, VersusDecoder]
    compute: Compute
    versus_scratch: VersusScratch | None = None


@dataclass(frozen=True)
class PretrainingRun:
    """A pretraining run: what was measured before its first step and after its last, and what it cost."""

    arm: str
    fold: int | None
    seed: int | None
    initial: dict[str, float]
    metrics: dict[str, float]
    seconds: float
    steps: int
    windows: int


@dataclass(frozen=True)
class ArmLeaks:
    """What of the test was seen before, at worst of an arm's runs.

    Attributes:
        units: Decoded neurons that pretraining saw.
        test_seconds: Test time that pretraining saw.
        scored_seconds: Test time that neurons were scored on.
    """

    units: int
    test_seconds: float
    scored_seconds: float


@dataclass(frozen=True)
class Leaks:
    """What of the test was seen before, by arm, and whether that was allowed."""

    allowed: bool
    arms: Mapping[str, ArmLeaks]


@dataclass(frozen=True)
class NeuronCounts:
    """How many neurons took part, of the first fold, and ids of the recordings they are in."""

    scored: int
    predictable: int
    decoded_from: int
    decode_fraction: float
    pretrained_on: Mapping[str, int]
    pretrained_on_recordings: Sequence[str]
    decoded_recordings: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What all results have.

    Attributes:
        format: Number of this layout.
        metric: What was measured, in words.
        kind: Kind of the task.
        chance: What guessing reaches, where there is such a thing.
        baselines: What simple decoders reach on the same trials.
        versions: Of the packages it was made with.
        git: Revision of the checkout, if it was one.
    """

    format: int
    metric: str
    task: str
    kind: str
    chance: float | None
    baselines: Mapping[str, TestedDecoder]
    versions: Mapping[str, str]
    git: str | None

    @property
    def measured(self) -> Metric:
        """The metric of the task."""
        return decoding_kind(self.kind).metric

    @property
    def beside(self) -> list[str]:
        """Names of what a test logs beside the metric."""
        return list(decoding_kind(self.kind).beside)

    @property
    def reference_lines(self) -> dict[str, float]:
        """Name to value of what arms are drawn against: chance, where there is any, and the simple decoders."""
        chance = {} if self.chance is None else {"chance": self.chance}
        return chance | {name: found.value for name, found in self.baselines.items()}


@dataclass(frozen=True, kw_only=True)
class TestSummary(Summary):
    """What came of the test of some arms."""

    __test__ = False

    arms: Mapping[str, ArmScores]


@dataclass(frozen=True, kw_only=True)
class ComparisonSummary(TestSummary):
    """What came of a comparison.

    Attributes:
        folds: Number of folds; 0 of the recorded split.
        independent: What intervals are over, in words.
        comparison: Its settings, without those that only say how runs are done.
        recipes: The recipes that all arms share, and what each arm changes of them.
        seconds: Wall-clock time.
        pretrained_minus_scratch: The arm ``pretrained`` against ``scratch``, if both took part.
    """

    arms: Mapping[str, ArmResult]
    pretraining: Sequence[PretrainingRun]
    seeds: Sequence[int]
    folds: int
    independent: str
    leaks: Leaks
    neurons: NeuronCounts
    comparison: ReadOnlyValues
    recipes: ReadOnlyValues
    seconds: float
    pretrained_minus_scratch: VersusScratch | None = None


def about(decoding: Decoding) -> Values:
    """What every result says of its task and of what made it, by fields of :class:`Summary`."""
    return {
        "metric": decoding.describe(),
        "task": decoding.task.name,
        "kind": decoding.task.kind,
        "chance": decoding.chance,
        "versions": versions(),
        "git": git_revision(),
    }


def independent_values(runs: Sequence[ComparedRun], beside: str | None = None) -> list[float]:
    """One value per independent run: seeds, or, with folds, the mean over seeds of each fold.

    ``beside`` takes another number of the same tests by its name.
    """
    units = [run.seed if run.fold is None else ("fold", run.fold) for run in runs]
    return unit_means([run.value if beside is None else run.further[beside] for run in runs], units)


def pool_data_sets(summaries: Sequence[ReadOnlyValues], arm: str, reference: str = SCRATCH) -> PairedComparison:
    """Compare two arms over independent data sets: other animals, or fresh simulations.

    Seeds of one data set are no samples of what another would give, so each data set counts once.

    Args:
        summaries: The content of ``results.json`` of each data set.
        arm: Name of an arm.
        reference: Name of the arm it is compared with.

    Example:
        >>> results = [{"arms": {"a": {"mean": m}, "scratch": {"mean": 0.5}}} for m in (0.6, 0.64, 0.62)]
        >>> str(pool_data_sets(results, "a"))
        '0.120 [0.070, 0.170]'
    """
    one, other = (
        Scores(np.array([[summary["arms"][name]["mean"]] for summary in summaries])) for name in (arm, reference)
    )
    return compare_scores(one, other)
