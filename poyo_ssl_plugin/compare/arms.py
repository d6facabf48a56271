"""The arms of a comparison: each is a way to come by the weights that fine-tuning starts from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from poyo_ssl_plugin.configuration import plugin_dir
from poyo_ssl_plugin.data import TASKS, Task
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.plain import ReadOnlyValues

SCRATCH, POYO_SSL = "scratch", "pretrained"


@dataclass(frozen=True)
class Arm:
    """One arm: what it is pretrained with, if at all, and what its fine-tuning does differently.

    Attributes:
        name: Its name in commands and results.
        title: What it is, in a few words.
        pretrain: Overrides of the recipe ``pretrain``, the diet among them; ``None`` fine-tunes random weights.
            ``{task}`` and ``{source}`` stand for the decoded task and its stimulus.
        finetune: Overrides of the fine-tuning recipe; empty for all arms but controls.
    """

    name: str
    title: str
    pretrain: tuple[str, ...] | None = ()
    finetune: tuple[str, ...] = ()

    @property
    def is_pretrained(self) -> bool:
        """Whether it starts from pretrained weights."""
        return self.pretrain is not None

    def pretraining(self, overrides: Sequence[str], task: Task) -> list[str]:
        """Overrides of the recipe ``pretrain``: the arm's own, after those that all arms share."""
        own = [text.format(task=in_recipe(task), source=task.source) for text in self.pretrain or ()]
        return join_overrides(overrides, own)


def in_recipe(task: Task) -> str:
    """A task as an override names it: by its name, or as it was declared.

    Example:
        >>> in_recipe(Task("side", "trials", "side"))
        '{name: side, source: trials, label: side}'
    """
    if task.name in TASKS:
        return task.name
    values = {
        key: f"[{','.join(map(str, value))}]" if isinstance(value, list) else value
        for key, value in task.to_dict().items()
    }
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


_IDENTIFY = ("identify.method=unlabelled",)
_GUESS = "self_training.rounds=10"
_SUPERVISED = ("ssl=none", "aux.weight=1.0")
INHIBITORY_LINES = ("Sst", "Vip", "Pvalb")

ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm(SCRATCH, "random weights, fine-tuning only", pretrain=None),
        Arm(POYO_SSL, "POYO-SSL: pretrained on the predictable neurons"),
        Arm("adapted", "pretrained, then the new neurons identified on their unlabelled training time", (), _IDENTIFY),
        Arm("adapted_scratch", "random weights, the neurons identified likewise", None, _IDENTIFY),
        Arm(
            "self_trained",
            "adapted, then guesses for the training trials without label are learned too",
            (),
            (*_IDENTIFY, _GUESS),
        ),
        Arm("self_trained_scratch", "random weights and guesses for the trials without label", None, (_GUESS,)),
        Arm("frozen_random", "random shared weights that are never trained", None, ("transfer=probe",)),
        Arm("reverse", "pretrained on the unpredictable neurons", ("diet=unpredictable",)),
        Arm(
            "inhibitory",
            "pretrained on inhibitory Cre lines only",
            ("diet=cre_lines", f"diet.cre_lines=[{','.join(INHIBITORY_LINES)}]"),
        ),
        Arm("mixed", "pretrained on half predictable, half unpredictable neurons, as many in all", ("diet=mixed",)),
        Arm("everything", "pretrained on all neurons", ("diet=all",)),
        Arm("random", "pretrained on as many neurons as are predictable, drawn at random", ("diet=random_matched",)),
        Arm("ssl_only", "POYO-SSL without the auxiliary loss", ("aux.weight=0",)),
        Arm("aux_only", "the auxiliary loss without self-supervision, predictable neurons", _SUPERVISED),
        Arm(
            "supervised",
            "pretrained on the decoded labels of the predictable neurons, without self-supervision",
            (*_SUPERVISED, "aux.task={task}", "data.stimulus={source}"),
        ),
        Arm("shuffled", "control: fine-tuned on shuffled labels, random weights", None, ("shuffle_labels=true",)),
        *(
            Arm(f"curriculum_{pacing}", text, ("diet=all", f"data.curriculum={pacing}"))
            for pacing, text in {
                "linear": "all neurons, the most predictable first, opened in proportion to training",
                "exponential": "all neurons, the most predictable first, most of them late",
                "step": "all neurons, the most predictable first, opened in four steps",
                "loss": "all neurons, the most predictable first, opened when the loss stops falling",
            }.items()
        ),
    )
}
ALIASES = {"predictable": POYO_SSL, "poyo_ssl": POYO_SSL}
# Those of the paper's table and its ablations; the curricula are compared among themselves.
PAPER_ARMS = tuple(name for name in ARMS if not name.startswith("curriculum"))


def get_arm(arm: str | ReadOnlyValues) -> Arm:
    """An arm by its name, or a new one from a mapping with the attributes of :class:`Arm`.

    Raises:
        RecipeError: If no arm has that name, or the mapping is not one of an arm.

    Example:
        >>> get_arm("reverse").pretrain
        ('diet=unpredictable',)
        >>> get_arm({"name": "best_half", "pretrain": ["diet=all", "+diet.fraction=0.5"]}).title
        'best_half'
    """
    if isinstance(arm, Mapping):
        return _new_arm(arm)
    name = ALIASES.get(str(arm), str(arm))
    if name not in ARMS:
        close = difflib.get_close_matches(name, [*ARMS, *ALIASES], n=1)
        hint = f"did you mean {close[0]}?" if close else ""
        raise RecipeError(f"unknown arm {name!r}; {hint or 'there are ' + ', '.join(ARMS)}")
    return ARMS[name]


def get_arms(names: Sequence[str | ReadOnlyValues]) -> list[Arm]:
    """Arms by name, in order.

    Raises:
        RecipeError: If one is unknown or named twice, or there is none.
    """
    arms = [get_arm(name) for name in names]
    twice = {arm.name for arm in arms if [other.name for other in arms].count(arm.name) > 1}
    if twice or not arms:
        raise RecipeError(f"arms names {', '.join(sorted(twice))} twice" if twice else "arms is empty")
    return arms


def join_overrides(shared: Sequence[str], own: Sequence[str]) -> list[str]:
    """Shared overrides, then own ones; an own one replaces a shared one of the same key.

    Where the own ones choose another diet, shared options that this diet does not have are left out.

    Example:
        >>> join_overrides(["model=tiny", "diet.skewness=3", "aux.weight=0.1"], ["diet=all", "aux.weight=0"])
        ['model=tiny', 'diet=all', 'aux.weight=0']
    """
    values = {_key(text): text.partition("=")[2] for text in own}
    foreign: set[str] = set()
    if "diet" in values:
        path = plugin_dir() / "diet" / f"{values['diet']}.yaml"
        known = path.read_text(encoding="utf-8") if path.is_file() else ""
        options = {key for key in map(_key, shared) if key.startswith("diet.") and key != "diet.fraction"}
        foreign = {key for key in options if f"{key[5:]}:" not in known}
    kept = [text for text in shared if _key(text) not in values and _key(text) not in foreign]
    return [*kept, *own]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _new_arm(content: ReadOnlyValues) -> Arm:
    unknown = set(content) - {"name", "title", "pretrain", "finetune"}
    if unknown or not str(content.get("name", "")).isidentifier():
        wrong = f"unknown {', '.join(sorted(unknown))}" if unknown else "it needs a name that is an identifier"
        raise RecipeError(f"arm {dict(content)}: {wrong}; give name, title, pretrain=[...] or null, finetune=[...]")
    if str(content["name"]) in {**ARMS, **ALIASES}:
        raise RecipeError(f"arm {content['name']!r} exists already; give yours another name")
    pretrain = content.get("pretrain", ())
    return Arm(
        str(content["name"]),
        str(content.get("title", content["name"])),
        None if pretrain is None else tuple(map(str, pretrain)),
        tuple(map(str, content.get("finetune", ()))),
    )
