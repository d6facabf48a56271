"""Questions that pages of results answer: each runs as a whole, small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from poyo_ssl_plugin.compare.answer import Answer, Column, PlannedDifference
from poyo_ssl_plugin.compare.answer_figure import _columns
from poyo_ssl_plugin.compare.arms import get_arm
from poyo_ssl_plugin.compare.estimates import Estimate
from poyo_ssl_plugin.compare.figures import in_words
from poyo_ssl_plugin.compare.plan import make_plan
from poyo_ssl_plugin.compare.reproduce import Question, _joined, get_question, question_names, reproduce
from poyo_ssl_plugin.compare.results import to_json
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import TASKS
from poyo_ssl_plugin.errors import RecipeError

# What stands in for the real recordings of a question.
STAND_IN = {
    "few_labels": {"recordings": ["sim_000"], "arms": ["scratch", "adapted", "adapted_scratch"]},
    "park": {"held_out": ["sim_002"], "arms": ["scratch", "adapted"]},
    "maps": {"held_out": ["sim_002"], "arms": ["scratch", "adapted"], "task": "drifting_gratings"},
    "diet": {"held_out": ["sim_002"], "arms": ["pretrained", "random"]},
    "diet_fresh": {"held_out": ["sim_002"], "arms": ["scratch", "pretrained"]},
    "aux_weight": {"held_out": ["sim_002"], "arms": ["ssl_only", {"name": "one", "pretrain": ["aux.weight=1"]}]},
    "causes": {"held_out": ["sim_002"], "arms": ["pretrained", "ssl_only"]},
    "parts": {"held_out": ["sim_002"], "arms": ["pretrained", "ssl_only"]},
    "size": {"held_out": ["sim_002"], "arms": ["scratch", "pretrained"]},
    "unlabelled": {"held_out": ["sim_002"], "arms": ["scratch", "ssl_only"]},
}
TINY = {"pretrain": ["model=tiny"], "finetune": ["model=tiny", "identify.steps=2"], "processes": 1}


def names_of(arms: list[str | dict]) -> set[str]:
    return {arm["name"] if isinstance(arm, dict) else arm for arm in arms}


def planned_of(question: Question, arms: list[str | dict]) -> list:
    return [plan for plan in question.planned if {plan["arm"], plan["reference"]} <= names_of(arms)]


@pytest.mark.parametrize("name", question_names())
def test_every_question_runs_small(name, sim_dir, tmp_path, unrendered):
    question, stand_in = get_question(name), STAND_IN[name]
    columns = {column: {**own, "arms": stand_in["arms"]} for column, own in list(question.columns.items())[-1:]}
    planned = [plan for plan in planned_of(question, stand_in["arms"]) if plan["column"] in columns]
    asked = Question(question.question, columns, planned, question.shared, question.data_sets, question.simulate)
    with unrendered():
        answer = reproduce(asked, tmp_path, {"root": str(sim_dir), **stand_in, **TINY}, small=True)
    assert json.loads((tmp_path / "answer.json").read_text()) == to_json(answer)
    assert "say nothing" in (tmp_path / "answer.md").read_text()
    [column] = answer.columns.values()
    arms = names_of(stand_in["arms"])
    assert set(column.arms) == arms
    assert len(answer.planned) == len(planned) > 0
    for pair in answer.planned:
        assert pair.n == 2
        arm, reference = (column.arms[name].mean for name in (pair.arm, pair.reference))
        losses = [column.log_loss[name].mean for name in (pair.arm, pair.reference)]
        if pair.beside is None:
            assert pair.mean == pytest.approx(arm - reference)
            assert pair.log_loss.mean == pytest.approx(losses[0] - losses[1])
        else:
            assert (pair.beside, pair.log_loss) == ("log_loss", None)
            assert pair.mean == pytest.approx(losses[0] - losses[1])
    assert set(column.log_loss) == {*arms, "softmax regression"}
    runs = pd.read_csv(tmp_path / "runs.csv")
    assert arms < set(runs.decoder)
    for arm in arms:
        # Data sets, or folds, have equally many runs, so the mean of all is the mean of theirs.
        found = runs[runs.decoder == arm][["value", "log_loss"]].mean()
        assert list(found) == pytest.approx([column.arms[arm].mean, column.log_loss[arm].mean], abs=1e-5)
    before = pd.read_csv(tmp_path / "pretraining.csv")
    assert set(before.arm) <= set(column.arms) and len(before)
    assert (before.steps == 3).all()
    # On folds there is no validation time.
    assert name == "few_labels" or (before.effective_rank > 1).all()


@pytest.fixture(scope="module")
def simulations(tmp_path_factory) -> Callable[[Question], Path]:
    """A folder for the recordings of a question, shared by those that simulate the same ones."""
    made: dict[str, Path] = {}

    def folder(question: Question) -> Path:
        return made.setdefault(json.dumps(question.simulate), tmp_path_factory.mktemp("simulated"))

    return folder


@pytest.mark.parametrize("name", [name for name in question_names() if get_question(name).simulate])
def test_what_is_simulated_can_be_compared(name, simulations, monkeypatch):
    """The recordings of its own, not those that stand in above: each column can be planned on them."""
    planned = []

    def plan(comparison, **_):
        planned.append(make_plan(comparison))
        if len(planned) == len(get_question(name).columns):
            raise RecipeError("all columns are planned")

    monkeypatch.setattr("poyo_ssl_plugin.compare.reproduce.report_comparison", plan)
    with pytest.raises(RecipeError, match="all columns are planned"):
        reproduce(get_question(name), simulations(get_question(name)), small=True)
    assert {plan.decoded for plan in planned} == {("sim_004", "sim_005")}


def test_data_sets_can_be_done_one_by_one(sim_dir, tmp_path):
    question, columns = get_question("diet"), {"quarter": {"arms": ["scratch"]}}
    asked = Question(question.question, columns, [], question.shared, question.data_sets)
    changes = {"root": str(sim_dir), "held_out": ["sim_002"], **TINY}
    assert reproduce(asked, tmp_path, changes, only=["107"], small=True).unit == "seed"
    assert set(pd.read_csv(tmp_path / "runs.csv").data_set) == {107}
    with pytest.raises(RecipeError, match="unknown data set '99'"):
        reproduce(asked, tmp_path, changes, only=["99"], small=True)


def test_columns_can_be_done_one_by_one(sim_dir, tmp_path, unrendered):
    columns = {name: {"arms": ["scratch"]} for name in ("one", "other")}
    planned = [{"column": name, "arm": "scratch", "reference": "scratch"} for name in columns]
    changes = {"root": str(sim_dir), "held_out": ["sim_002"], "task": "drifting_gratings", **TINY}
    with unrendered():
        answer = reproduce(Question("Why?", columns, planned), tmp_path, changes, columns=["other"], small=True)
    assert list(answer.columns) == ["other"] and [pair.column for pair in answer.planned] == ["other"]
    with pytest.raises(RecipeError, match="unknown column 'third'; those of this question: one, other"):
        reproduce(Question("Why?", columns, planned), tmp_path, changes, columns=["third"])


def test_planned_arms_are_those_of_their_column():
    for name in question_names():
        question = get_question(name)
        for plan in question.planned:
            arms = question.columns[plan["column"]].get("arms", question.shared.get("arms"))
            assert {plan["arm"], plan["reference"]} <= names_of(arms), plan


@pytest.mark.parametrize(("name", "labelled"), [("diet", 0.01), ("causes", 1)])
def test_weight_of_auxiliary_labels_is_that_of_the_page(name, labelled):
    shared = get_question(name).shared.get("pretrain", [])
    for arm, weight in {"pretrained": labelled, "reverse": labelled, "ssl_only": 0, "supervised": 1}.items():
        overrides = get_arm(arm).pretraining(shared, TASKS["drifting_gratings"])
        assert compose_recipe("pretrain", overrides=overrides).aux.weight == weight


def test_a_question_about_recordings_asks_for_them(tmp_path):
    with pytest.raises(RecipeError, match="root is not set"):
        reproduce(get_question("park"), tmp_path)
    with pytest.raises(RecipeError, match="did you mean few_labels"):
        get_question("few_label")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("diet", {"root": "here"}, "root is what the data sets of this question differ in"),
        ("park", {"root": "here", "held_out": ["mrcuts25"]}, "held_out is what the data sets"),
        ("few_labels", {"root": "here", "arms": ["scratch", "pretrained"]}, "arms leaves out adapted, "),
    ],
)
def test_what_would_make_an_answer_untrue_is_refused(name, changes, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        reproduce(get_question(name), tmp_path / "out", changes)
    assert not (tmp_path / "out").exists()


def test_one_override_of_a_recipe_is_a_list_of_one():
    assert _joined({"finetune": ["model=small"]}, {"finetune": "model=tiny"}) == {
        "finetune": ["model=small", "model=tiny"]
    }


def test_dots_of_arms_of_one_colour_have_other_shapes():
    names = ["scratch", "ssl_only", "adapted_ssl_only"]
    arms = {name: Estimate(0.5, None, 1) for name in names}
    column = Column(arms, {}, chance=None, metric="", seconds=0, git=None)
    dots = _columns(Answer("Why?", False, "fold", {"one": column, "other": column}, [])).axes[0].lines
    looks = {line.get_label(): (line.get_color(), line.get_marker()) for line in dots[::2]}
    assert set(looks) == {in_words(name) for name in names} and len(set(looks.values())) == 3
    assert len({colour for colour, _ in looks.values()}) == 2


def test_the_lines_of_an_answer():
    column = Column(
        {"scratch": Estimate(0.5, [0.4, 0.6], 2)}, {"template": 0.25}, chance=0.125, metric="", seconds=0, git=None,
        log_loss={"scratch": Estimate(1.5, [1.25, 1.75], 2), "softmax regression": Estimate(2.0, None, 2)},
    )  # fmt: skip
    planned = PlannedDifference(
        0.125,
        None,
        2,
        None,
        None,
        np.float64(0.25),
        None,
        column="all",
        arm="adapted",
        reference="scratch",
        p_holm=None,
        log_loss=Estimate(-0.25, [-0.5, 0.0], 2),
    )
    lines = Answer("Why?", False, "fold", {"all": column}, [planned]).lines()
    assert lines == [
        "# Why?",
        "",
        "|  | all |",
        "| --- | --- |",
        "| `scratch` | 0.500 (0.400 to 0.600) |",
        "| template | 0.250 |",
        "| chance | 0.125 |",
        "",
        "| log-loss, nats | all |",
        "| --- | --- |",
        "| `scratch` | 1.500 (1.250 to 1.750) |",
        "| softmax regression | 2.000 |",
        "",
        "| planned comparison | difference | relative | Holm's p | folds | of log-loss |",
        "| --- | --- | --- | --- | --- | --- |",
        "| all: `adapted` - `scratch` | +0.125 | +25% | - | 2 | -0.250 (-0.500 to +0.000) |",
    ]
