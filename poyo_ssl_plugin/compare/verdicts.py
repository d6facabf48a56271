"""What the numbers of a comparison support, in words: no more than that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from poyo_ssl_plugin.compare.arms import POYO_SSL, SCRATCH
from poyo_ssl_plugin.compare.estimates import MIN_RUNS, MIN_TRIALS
from poyo_ssl_plugin.compare.results import ArmResult, ComparisonSummary, Leaks, VersusDecoder, VersusScratch
from poyo_ssl_plugin.training.leaks import TOLERANCE

LEVEL = 0.05


def verdict(summary: ComparisonSummary) -> str:
    """What the numbers support: of POYO-SSL if it took part, else of every arm."""
    against = summary.pretrained_minus_scratch
    if against is None:
        return " ".join(arm_verdicts(summary)) or "There is no run from scratch to compare with."
    pretrained, scratch = summary.arms[POYO_SSL], summary.arms[SCRATCH]
    chance = "" if summary.chance is None else f", chance {summary.chance:.3f}"
    text = (
        f"Pretrained {pretrained.mean:.3f}, from scratch {scratch.mean:.3f}{chance}: a difference of "
        f"{against.mean:+.3f}{in_brackets(against.ci95)}. {_supported(against, 'Pretraining')}"
    )
    if not pretrained.versus_decoders:
        return text
    return f"{text} {_against_decoders(pretrained.versus_decoders, few=bool(too_few(against)))}"


def _against_decoders(decoders: Mapping[str, VersusDecoder], *, few: bool) -> str:
    """Whether the pretrained model is above the best simple decoder.

    It is only if it is above every one of them: none is chosen by what it reached on the test.
    """
    named = {name: f"{name} ({decoder.value:.3f})" for name, decoder in decoders.items()}
    told = {name: None if few else decoder.ci95 for name, decoder in decoders.items()}
    below = [named[name] for name, ci95 in told.items() if ci95 is not None and ci95[1] < 0]
    if below:
        return f"The pretrained model is below {', '.join(below)}."
    not_told = [named[name] for name, ci95 in told.items() if ci95 is None or ci95[0] <= 0]
    if not_told:
        return f"These runs do not tell the pretrained model from {', '.join(not_told)}."
    return f"The pretrained model is above every simple decoder: {', '.join(named.values())}."


def arm_verdicts(summary: ComparisonSummary) -> list[str]:
    """What the numbers support of each arm against training from scratch, one sentence or two each."""
    return [
        _arm_verdict(name, arm, arm.versus_scratch, summary.chance)
        for name, arm in summary.arms.items()
        if arm.versus_scratch is not None
    ]


def leak_warnings(leaks: Leaks) -> list[str]:
    """A sentence for every arm whose test was seen before: its numbers say less than they seem to."""
    texts = []
    for name, found in leaks.arms.items():
        seen = []
        if found.units:
            seen.append(f"pretraining saw {found.units} of the decoded neurons")
        if found.test_seconds > TOLERANCE:
            seen.append(f"pretraining saw {found.test_seconds:.0f} s of the test time")
        if found.scored_seconds > TOLERANCE:
            seen.append(f"neurons were scored on {found.scored_seconds:.0f} s of the test time")
        if seen:
            texts.append(f"LEAK, allowed by allow_leak=true: {name}: {', '.join(seen)}.")
    return texts


def too_few(against: VersusScratch) -> str:
    """Why a comparison decides nothing whatever its numbers are; empty if it may."""
    if against.n < MIN_RUNS:
        runs = "One run of each arm decides" if against.n == 1 else f"{against.n} runs of each arm decide"
        return f"{runs} nothing; it takes at least {MIN_RUNS}."
    if against.n_trials < MIN_TRIALS:
        return f"{against.n_trials} test trials decide nothing; it takes at least {MIN_TRIALS}."
    return ""


def in_brackets(ci95: Sequence[float] | None) -> str:
    """An interval in brackets, to be put behind its mean."""
    return "" if ci95 is None else f" (95 % interval {ci95[0]:+.3f} to {ci95[1]:+.3f})"


def _arm_verdict(name: str, arm: ArmResult, against: VersusScratch, chance: float | None) -> str:
    text = f"{name} ({arm.title}): {against.mean:+.3f} against from scratch{in_brackets(against.ci95)}. "
    if name != "shuffled" or chance is None:
        return text + _supported(against, "It")
    if few := too_few(against):
        return text + few
    numbers = f"{arm.mean:.3f} against {chance:.3f}"
    p = arm.p_above_chance
    if arm.ci95 is not None and arm.ci95[0] > chance and p is not None and p < LEVEL:
        return text + f"It is above chance ({numbers}): labels leak, and no other number here holds."
    return text + f"It is not told from chance ({numbers}), as a control must be."


def _supported(against: VersusScratch, what: str) -> str:
    """What a comparison with training from scratch supports: an effect needs its interval and Holm's p."""
    if few := too_few(against):
        return few
    if against.ci95 is None or against.p_holm is None or against.ci95[0] <= 0 <= against.ci95[1]:
        return f"These runs do not tell whether {what.lower()} helped."
    low = against.ci95[0]
    if against.p_holm < LEVEL:
        return f"{what} {'helped' if low > 0 else 'hurt'}{_relative(against)}."
    return f"{what} seems to {'help' if low > 0 else 'hurt'}, but not beyond what so many arms give by chance (Holm)."


def _relative(against: VersusScratch) -> str:
    if against.relative_gain is None:
        return ""
    text = f", by {100 * against.relative_gain:+.0f} % relative"
    if against.relative_ci95 is not None:
        low, high = against.relative_ci95
        text += f" (95 % interval {100 * low:+.0f} to {100 * high:+.0f} %)"
    return text
