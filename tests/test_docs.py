"""What the pages promise is tested: every test that they name is there."""

from __future__ import annotations

import ast
import math
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from poyo_ssl_plugin.compare.estimates import Scores, compare_scores, holm

TESTS = Path(__file__).parent
RESULTS = TESTS.parent / "docs" / "results"
RUNS = RESULTS / "runs"
PAGES = [TESTS.parent / name for name in ("docs/reliability.md", "SECURITY.md")]
NAME = re.compile(r"`(?:tests/)?(test_\w+\.py)((?:::\w+)*)`")


def defined(file: str) -> set[str]:
    """Names of the tests of a file, as pytest has them: ``::test_one``, ``::TestClass``, ``::TestClass::test_two``."""
    found = {""}
    for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(f"::{node.name}")
        if isinstance(node, ast.ClassDef):
            found |= {f"::{node.name}::{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    named = NAME.findall(page.read_text(encoding="utf-8"))
    assert len(named) >= 5
    for file, name in named:
        assert (TESTS / file).is_file(), file
        assert name in defined(file), f"{file}{name}"


def test_every_test_that_any_page_names_exists():
    for page in (TESTS.parent / "docs").rglob("*.md"):
        for file, name in NAME.findall(page.read_text(encoding="utf-8")):
            assert (TESTS / file).is_file() and name in defined(file), f"{page.name}: {file}{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_row_of_promises_names_one(page):
    rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    # A table begins with its head, which a row of dashes follows.
    heads = {i for i, line in enumerate(rows) if i + 1 < len(rows) and set(rows[i + 1]) <= set("|- ")}
    promises = [line for i, line in enumerate(rows) if i not in heads and set(line) - set("|- ")]
    assert promises
    for line in promises:
        assert NAME.search(line), line


def test_nothing_else_that_looks_like_a_test_is_named():
    for page in PAGES:
        for word in re.findall(r"`([^`\n]*(?:::|test_)[^`\n]*)`", page.read_text(encoding="utf-8")):
            assert NAME.fullmatch(f"`{word}`") or word.startswith(("make ", "python -m pytest")), word


def test_the_figure_of_all_gains_shows_what_the_pages_say():
    gains = pd.read_csv(RUNS / "gains.csv")
    assert len(gains) >= 16 and ((gains.low <= gains.gain) & (gains.gain <= gains.high)).all()
    for row in gains.itertuples():
        page = (RESULTS / f"{row.page}.md").read_text(encoding="utf-8")
        form = "+.0%" if math.isnan(row.scratch) else "+.3f"
        words = f"{row.gain:{form}} ({row.low:{form}} to {row.high:{form}})".replace("%", " %").replace("+0 %", "0 %")
        lines = [line for line in page.splitlines() if words in line and f"`{row.arm}`" in line]
        if row.page in ("park", "unlabelled", "maps"):
            # A row of these tables is of one amount of labels.
            lines = [line for line in lines if f"| {row.labels}:" in line]
        assert lines, row


def test_the_page_of_the_real_session_says_what_its_runs_say():
    page = (RESULTS / "real_session.md").read_text(encoding="utf-8")
    planned, neighbouring = (pd.read_csv(RUNS / f"{name}.csv") for name in ("few_labels", "contiguous_folds"))
    both = pd.concat([planned.assign(column="planned " + planned.column), neighbouring])
    columns = ["all", "quarter", "eighth"]
    for heading, runs, measured, of, n in (
        ("What was measured", planned, "value", columns, 9),
        ("Folds of neighbouring repeats", neighbouring, "value", columns, 9),
        ("Log-loss", both, "log_loss", [f"planned {column}" for column in columns] + columns, 7),
    ):
        section = page.partition(f"## {heading}")[2].partition("\n## ")[0]
        means = runs.pivot_table(index="decoder", columns="column", values=measured)[of]
        assert len(means) == n
        for decoder, values in means.iterrows():
            cells = " | ".join("-" if math.isnan(value) else f"{value:.3f}" for value in values)
            assert re.search(rf"\| [^|]*`?{decoder}`?\)? \| {re.escape(cells)} \|", section), (decoder, cells)


@pytest.mark.parametrize(
    ("runs", "heading", "measured", "with_p"),
    [
        ("few_labels", "against scratch", "value", False),
        ("contiguous_folds", "against `scratch`", "value", True),
        ("few_labels", "against `scratch`, planned folds", "log_loss", True),
        ("contiguous_folds", "against `scratch`, neighbouring", "log_loss", True),
    ],
)
def test_differences_from_scratch_in_the_real_session_are_those_of_its_runs(runs, heading, measured, with_p):
    said = (RESULTS / "real_session.md").read_text(encoding="utf-8")
    _, _, *table = said.partition(f"| {heading} |")[2].partition("\n\n")[0].splitlines()
    rows = {arm.strip("`"): cells for arm, *cells in (line.strip("| ").split(" | ") for line in table)}
    values = pd.read_csv(RUNS / f"{runs}.csv").dropna(subset="seed")
    for place, column in enumerate(("all", "quarter", "eighth")):
        means = values[values.column == column].groupby(["decoder", "fold"])[measured].mean().unstack()
        folds = {arm: Scores(of.to_numpy(), folds=True) for arm, of in means.iterrows()}
        pairs = {arm: compare_scores(of, folds["scratch"]) for arm, of in folds.items() if arm != "scratch"}
        adjusted = dict(zip(pairs, holm([pair.p for pair in pairs.values()]), strict=True))
        for arm, cells in rows.items():
            if arm not in pairs:
                assert cells[place] == "-", arm
                continue
            pair = pairs[arm]
            if measured == "value":
                shares = (100 * share for share in (pair.relative_gain, *pair.relative_ci95))
                wanted = "{} ({} to {})".format(*(re.sub(r"^[+-]0 ", "0 ", f"{share:+.0f} %") for share in shares))
            else:
                wanted = signed(pair)
            found, _, p_holm = cells[place].partition(", Holm p = ")
            assert found == wanted, (arm, column)
            assert not with_p or p_holm in {f"{adjusted[arm]:{form}}" for form in (".2f", ".2g", ".1g")}, (arm, column)


@pytest.mark.parametrize(
    ("page", "animals", "columns"),
    [
        ("park", 4, ["13 blocks", "3 blocks", "1 block"]),
        ("unlabelled", 4, ["3 blocks", "1 block"]),
        ("maps", 3, ["all", "tenth"]),
        ("size", 6, ["tiny", "small", "medium"]),
    ],
)
def test_pages_of_animals_say_what_their_runs_say(page, animals, columns):
    runs, said = pd.read_csv(RUNS / f"{page}.csv"), (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    # Every animal counts once, however many runs it has.
    by_animal = runs.groupby(["decoder", "column", "data_set"])[["value", "log_loss"]].mean()
    means = by_animal.groupby(["decoder", "column"]).mean()
    assert runs.data_set.nunique() == animals and set(runs.column) == set(columns)
    for decoder in runs.decoder.unique():
        cells = []
        for mean in (means.loc[decoder, column] for column in columns):
            cells += [rf"{mean.value:.3f}( \([^|]*\))?", "-" if math.isnan(mean.log_loss) else f"{mean.log_loss:.2f}"]
        row = r" \| ".join(cells)
        assert re.search(rf"\| (.*`{decoder}`\)|{decoder}) \| {row} \|", said), (decoder, row)


# Columns by the words that a page has for them, where its tables have more than one.
IN_WORDS = {
    "few_labels": {"all": "all labels", "quarter": "1/4", "eighth": "1/8"},
    "maps": {"all": "all laps", "tenth": "1/10"},
    "diet": {"quarter": ""},
    "diet_fresh": {"quarter": ""},
    "parts": {"quarter": ""},
    "causes": {"quarter": ""},
}


@pytest.mark.parametrize(
    ("question", "page", "planned"),
    [
        ("few_labels", "real_session", 10),
        ("park", "park", 6),
        ("unlabelled", "unlabelled", 8),
        ("maps", "maps", 4),
        ("diet", "diet", 5),
        ("diet_fresh", "diet_fresh", 4),
        ("parts", "parts", 7),
        ("causes", "causes", 4),
        ("size", "size", 3),
    ],
)
def test_planned_differences_of_pages_are_those_of_their_runs(question, page, planned):
    answer = runpy.run_path(str(RESULTS / "tables.py"))["answer_from"](question)
    said = (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    head, _, *table = said.partition("| planned comparison |")[2].partition("\n\n")[0].splitlines()
    assert len(answer.planned) == len(table) == planned
    for pair in answer.planned:
        column = IN_WORDS.get(question, {}).get(pair.column, pair.column)
        of = {None: "", "log_loss": ", log-loss"}[pair.beside]
        name = f"{column}: " * bool(column) + f"`{pair.arm}` - `{pair.reference}`{of}"
        [cells] = [row for row in (line.strip("| ").split(" | ") for line in table) if row[0] == name]
        assert cells[1] == signed(pair), name
        of_loss = "-" if pair.log_loss is None else signed(pair.log_loss)
        assert "log-loss" not in head or cells[-1] == of_loss, name
        # The digits of Holm's p are those that tell something.
        assert {f"{pair.p_holm:{form}}" for form in (".2f", ".2g", ".1g")} & set(cells[2:4]), name


def signed(difference) -> str:
    return "{:+.3f} ({:+.3f} to {:+.3f})".format(difference.mean, *difference.ci95)


@pytest.mark.parametrize(
    ("page", "simulations", "decoders"), [("diet", 20, 16), ("diet_fresh", 20, 8), ("parts", 6, 16), ("causes", 14, 8)]
)
def test_pages_of_simulations_say_what_their_runs_say(page, simulations, decoders):
    runs, said = pd.read_csv(RUNS / f"{page}.csv"), (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    assert runs.data_set.nunique() == simulations
    means = runs.groupby("decoder")[["value", "log_loss"]].mean()
    assert len(means) == decoders
    for decoder, mean in means.iterrows():
        [line] = [line for line in said.splitlines() if re.match(rf"\| (.*`{decoder}`[;)].*|{decoder}) \| 0", line)]
        loss = "-" if math.isnan(mean.log_loss) else f"{mean.log_loss:.2f}"
        assert re.search(rf"\| {mean.value:.3f}( \(.*\))? \| {loss} \|", line), line


@pytest.mark.parametrize(
    ("page", "begin", "end", "measured", "n"),
    [
        ("diet", "Exploratory, each against `scratch`:", "So `adapted`", "value", 10),
        ("diet", "Against `scratch`:", "Most of it is overconfidence", "log_loss", 8),
        ("diet_fresh", "Exploratory, each against `scratch`:", "To identify", "value", 3),
    ],
)
def test_differences_in_prose_are_those_of_their_runs(page, begin, end, measured, n):
    runs, said = pd.read_csv(RUNS / f"{page}.csv"), " ".join((RESULTS / f"{page}.md").read_text("utf-8").split())
    means = runs.pivot_table(index="data_set", columns="decoder", values=measured)
    found = re.findall(r"`(\w+)` ([+-]?\d.\d{3} \(\S+ to [^)]*)\)", said.partition(begin)[2].partition(end)[0])
    assert len(found) == n
    for arm, words in found:
        pair = compare_scores(*(Scores(means[name].to_numpy()[:, None]) for name in (arm, "scratch")))
        assert f"{words})" == re.sub(r"[+-](0\.000)", r"\1", signed(pair)), arm


@pytest.mark.parametrize(
    ("page", "key", "columns"),
    [
        (
            "parts",
            "arm",
            {"masked_skill": ".2f", "effective_rank": ".0f", "latent_std": ".2f", "probe_accuracy": ".2f"},
        ),
        ("size", "column", {"masked_skill": ".2f", "effective_rank": ".0f"}),
    ],
)
def test_tables_of_pretraining_say_what_their_runs_say(page, key, columns):
    means = pd.read_csv(RUNS / f"{page}_pretraining.csv").groupby(key)[[*columns, "seconds"]].mean()
    said = (RESULTS / f"{page}.md").read_text(encoding="utf-8").partition("| pretraining |")[2].replace("`", "")
    assert len(means) >= 3
    for name, row in means.iterrows():
        cells = ["-" if math.isnan(row[column]) else f"{row[column]:{form}}" for column, form in columns.items()]
        pattern = r"( of \d+)? \| ".join([*map(re.escape, cells), f"{row.seconds:.0f}"])
        assert re.search(rf"\| {name} \| {pattern} \|", said), (name, cells)


@pytest.mark.parametrize(
    ("page", "columns"), [("park", ["13 blocks", "3 blocks", "1 block"]), ("unlabelled", ["3 blocks", "1 block"])]
)
def test_tables_by_mouse_say_what_their_runs_say(page, columns):
    runs, said = pd.read_csv(RUNS / f"{page}.csv"), (RESULTS / f"{page}.md").read_text(encoding="utf-8")
    means = runs.groupby(["data_set", "decoder", "column"])[["value", "log_loss"]].mean()
    arms = list(runs[runs.seed.notna()].decoder.unique())
    for mouse in runs.data_set.unique():
        for measured, decoders in (("value", [*arms, "template"]), ("log_loss", arms)):
            cells = (
                ", ".join(f"{means.loc[mouse, arm, column][measured]:.3f}" for column in columns) for arm in decoders
            )
            assert f"| {mouse} | {' | '.join(cells)} |" in said, (mouse, measured)


def test_temperatures_are_not_fitted_to_runs_of_two_comparisons(tmp_path):
    script = runpy.run_path(str(RESULTS / "calibrated_log_loss.py"))
    trials = script["Trials"](np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]), np.array([0, 1, 1]))
    of_the_script = script["losses_in"].__globals__
    for folder in ("one", "other"):
        (tmp_path / "runs" / "finetune" / folder).mkdir(parents=True)
        (tmp_path / "runs" / "finetune" / folder / "run.json").touch()
    of_the_script["tested"] = lambda folder: script["Run"](folder.name, None, 0, trials, trials)
    table = script["losses_in"](tmp_path)
    assert list(table.arm) == ["one", "other"]
    # Scores say the right class in two of three trials; at the best temperature they give it a probability of 2/3.
    assert table.calibrated.tolist() == pytest.approx([np.log(3) - 2 / 3 * np.log(2)] * 2, abs=1e-6)
    of_the_script["tested"] = lambda folder: script["Run"]("pretrained", None, 0, trials, trials)
    with pytest.raises(SystemExit, match="2 runs of pretrained with one seed"):
        script["losses_in"](tmp_path)


def test_weights_of_the_labels_are_those_of_their_runs():
    tables = runpy.run_path(str(RESULTS / "tables.py"))
    runs, [column] = tables["read_runs"]("aux_weight"), tables["answer_from"]("aux_weight").columns.values()
    said = (RESULTS.parent / "objective.md").read_text(encoding="utf-8")
    weights = {"0.01": "hundredth", "0.1": "tenth", "1": "one"}
    for name, arm in {"no labels (`aux.weight=0`)": "ssl_only", **weights, "from scratch": "scratch"}.items():
        plan = {"column": "quarter", "arm": arm, "reference": "ssl_only"}
        against = "-" if arm == "ssl_only" else signed(tables["_difference"](runs, plan, "log_loss"))
        cells = (name, f"{column.arms[arm].mean:.3f}", f"{column.log_loss[arm].mean:.2f}", against)
        assert f"| {' | '.join(cells)} |" in said
    kept = tables["read_runs"]("aux_weight_scale_kept")
    now = runs[runs.data_set.isin(kept.data_set)]
    means = [of.groupby("arm").log_loss.mean() for of in (kept, now)]
    added = "{:.2f}, {:.2f} and {:.2f} nats".format(*(means[0] - means[1])[list(weights.values())])
    assert f"had added {added}" in said
