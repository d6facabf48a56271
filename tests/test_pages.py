"""The pages keep up with the package: code on them runs, commands and keys exist, links lead somewhere."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import torch

import poyo_ssl_plugin
from poyo_ssl_plugin import CalciumPOYO, Recordings
from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.scale import Scaling
from poyo_ssl_plugin.compare.settings import parse_overrides
from poyo_ssl_plugin.compat import GENERATION, DatasetIndex, collate
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.recipe_keys import explain

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
    + [path for path in DOCS.rglob("*.md") if not {"_build", "made"} & set(path.relative_to(DOCS).parts)]
)
FENCE = re.compile(r"^( *)```(\{?[\w-]*\}?)[^\n]*\n(.*?)^\1```", re.M | re.S)
REASON = re.compile(r"<!-- not run: \w.*? -->\s*$", re.S)
# A word that stands for any value.
PLACEHOLDER = re.compile(r"=X$|\.\.\.|VALUE|your\.Model")
# Whose code other tests run, or compare with the source that it shows.
RUN_ELSEWHERE = {"own_loop.md": "test_own_loop.py", "own_data.md": "test_importing.py"}
SHOWN_SOURCE = ("class ActiveFraction", "def active(", "def every_other_step(", "def contrast(")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass
class Block:
    page: Path
    language: str
    code: str
    excused: bool


def blocks(*languages: str) -> list[Block]:
    """Fenced blocks of these languages; excused are those with a reason above them."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] in languages:
                excused = bool(REASON.search(text[: match.start()]))
                found.append(Block(page, match[2], inspect.cleandoc(match[3]), excused))
    return found


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of ``poyo-ssl`` in a block of a shell: its page, and its words."""
    for block in blocks("sh", "bash", "console", "{code-cell}"):
        if block.excused or (block.language == "{code-cell}" and not block.code.startswith("%%sh")):
            continue
        for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
            if "poyo-ssl " in line:
                yield name_of(block.page), words_of(line)
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for code in re.findall(r"`((?:poyo-ssl )[^`]+)`", text):
            yield name_of(page), words_of(" ".join(code.split()))


def words_of(line: str) -> list[str]:
    words = shlex.split(re.sub(r"\$\(.*?\)|\$\w+", "X", line), comments=True)
    calls = [i for i, word in enumerate(words) if word.rpartition("/")[2] == "poyo-ssl"]
    words = [word for word in words[calls[0] + 1 :] if word != "..."] if calls else []
    end = next((i for i, word in enumerate(words) if word in ("|", "&&") or word.endswith(";")), len(words))
    return [word.rstrip(";") for word in words[: end + 1] if word not in ("|", "&&")]


CALLS = {(page, *words): (page, words) for page, words in commands() if words}


def test_there_is_something_to_check():
    assert len(CALLS) > 100 and {page for page, _ in CALLS.values()} >= {"README.md", "docs/get_started.md"}


@pytest.mark.parametrize("page", sorted({page for page, _ in CALLS.values()}))
def test_every_command_and_option_on_a_page_exists(page):
    for _, words in (call for call in CALLS.values() if call[0] == page):
        if words[0].isupper():  # COMMAND stands for any
            continue
        command: click.Command = main
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            assert words[0] in command.commands, (page, words)
            command, words = command.commands[words[0]], words[1:]
        options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        for word in words:
            if word.startswith("-") and not word.lstrip("-")[:1].isdigit():
                assert word.partition("=")[0] in {*options, "--help", "--version"}, (page, words)


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_every_key_of_a_recipe_on_a_page_exists(command, installed):
    asked = set()
    for _, (name, *words) in CALLS.values():
        if name == command and "--recipe-dir" not in words:
            recipe = words[words.index("--recipe") + 1] if "--recipe" in words else None
            overrides = [word for word in words if "=" in word and not word.startswith("-")]
            asked.add((recipe, *overrides))
    assert len(asked) > 10
    default = {"pretrain": None, "finetune": "drifting_gratings"}[command]
    for recipe, *overrides in asked:
        compose_recipe(command, recipe or default, [word for word in overrides if not PLACEHOLDER.search(word)])


@pytest.mark.parametrize(
    ("command", "settings"), [("compare", Comparison), ("reproduce", Comparison), ("scale", Scaling)]
)
def test_every_setting_of_a_comparison_on_a_page_exists(command, settings):
    asked = {tuple(words) for _, (name, *words) in CALLS.values() if name == command}
    assert asked
    for words in asked:
        parse_overrides([word for word in words if "=" in word and not PLACEHOLDER.search(word)], settings)


def test_code_is_no_wider_than_the_page():
    languages = ("sh", "bash", "console", "python", "text", "toml", "yaml", "{code-cell}")
    for block in blocks(*languages):
        for line in block.code.splitlines():
            assert len(line) <= 88 or line.lstrip().startswith("alt:"), (block.page.name, line)


def test_no_line_of_prose_is_taken_for_a_comment():
    # MyST leaves out a line that begins with a per cent sign.
    for page in PAGES:
        for line in FENCE.sub("", page.read_text(encoding="utf-8")).splitlines():
            assert not line.startswith("%"), f"{page.name}: {line}"


def test_brackets_are_quoted_for_shells_that_take_them_for_patterns():
    for block in blocks("sh", "bash", "console"):
        assert not re.search(r"(?<=\s)[\w.+]+=\[", block.code), (block.page.name, block.code)
    for page in PAGES:
        for code in re.findall(r"`(poyo-ssl [^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
            assert not re.search(r"(?<=\s)[\w.+]+=\[", code), (page.name, code)


class TestPython:
    @pytest.fixture
    def world(self, sim_dir, tmp_path, monkeypatch) -> dict[str, Any]:
        """What pages take for granted: recordings, a window, a model of them, and its checkpoint."""
        monkeypatch.chdir(tmp_path)
        for name in ("data", "recordings"):
            (tmp_path / name).symlink_to(sim_dir)
        dataset = Recordings("data")
        arguments = {"sequence_length": 2.0, "latent_step": 0.2, "patch_size": 6, "dim": 64, "dim_out": 8}
        model = CalciumPOYO(**arguments)
        model.init_vocabs(dataset)
        window = dataset[DatasetIndex("sim_000", 10.0, 12.0)]
        state = {f"model.{name}": value for name, value in model.state_dict().items()}
        folder = tmp_path / "runs/pretrain/checkpoints"
        folder.mkdir(parents=True)
        torch.save({"hyper_parameters": {"model": arguments}, "state_dict": state}, folder / "last.ckpt")
        inputs = collate([model.tokenize(window)] * 2)
        times = {"output_timestamps": torch.tensor([[1.0]] * 2)}
        return {
            "dataset": dataset,
            "session_ids": dataset.recording_ids,
            "window": window,
            "model": model,
            "inputs": {**times, **inputs},
        }

    PYTHON = [block for block in blocks("python") if not block.excused and block.page.name not in RUN_ELSEWHERE]

    @pytest.mark.skipif(GENERATION != "0.2", reason="pages are of the current torch_brain")
    @pytest.mark.parametrize("page", sorted({name_of(block.page) for block in PYTHON}))
    def test_every_block_runs(self, page, world):
        for block in self.PYTHON:
            if name_of(block.page) == page and not block.code.startswith(SHOWN_SOURCE):
                exec(compile(block.code, page, "exec"), world)

    def test_what_other_tests_run_is_run_by_them(self):
        for page, test in RUN_ELSEWHERE.items():
            assert f'"{page}"' in (ROOT / "tests" / test).read_text(encoding="utf-8")

    def test_notebooks_are_run_when_the_site_is_built(self):
        notebooks = {block.page for block in blocks("{code-cell}")}
        tutorials = {page for page in (DOCS / "tutorials").glob("*.md") if page.name != "index.md"}
        assert notebooks == {*tutorials, DOCS / "gallery.md"}
        for notebook in notebooks:
            assert notebook.read_text(encoding="utf-8").startswith("---\njupytext:")


@pytest.mark.slow
def test_get_started_leads_to_a_report_in_ten_minutes(tmp_path):
    """Its commands as they stand, without the demo that does them all; on two free cores."""
    steps = [b.code for b in blocks("sh") if name_of(b.page) == "docs/get_started.md" and " demo " not in b.code]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.monotonic()
    for step in steps:
        subprocess.run(["bash", "-ec", step], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True)
    assert (tmp_path / "runs/compare/report.html").exists()
    assert time.monotonic() - began < 600


class TestLinks:
    LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)(#[\w-]+)?\)")

    @staticmethod
    def anchors(page: Path) -> set[str]:
        """Anchors of headings, as GitHub and MyST make them."""
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        titles = re.findall(r"^#+ (.*)$", text, re.M)
        return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_links_lead_somewhere(self, page):
        for target, anchor in self.LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
            path = page.parent / target if target else page
            if "made" in path.parts:  # written when the site is built
                continue
            assert path.exists(), target
            if anchor and path.suffix == ".md":
                assert anchor[1:] in self.anchors(path), f"{target}{anchor}"

    def test_every_page_is_in_a_table_of_contents(self):
        listed = set()
        for page in PAGES:
            for match in FENCE.finditer(page.read_text(encoding="utf-8")):
                if match[2] == "{toctree}":
                    entries = [line.strip() for line in match[3].splitlines() if line.strip()[:1] not in ("", ":")]
                    for entry in entries:
                        listed |= {path.resolve() for path in page.parent.glob(f"{entry}.md")}
        pages = {path.resolve() for path in PAGES if path.is_relative_to(DOCS)}
        assert pages - listed == {(DOCS / "index.md").resolve()}


class TestReference:
    @pytest.fixture
    def made(self):
        sys.path.insert(0, str(DOCS / "_sphinx"))
        try:
            yield importlib.import_module("reference_pages")
        finally:
            sys.path.remove(str(DOCS / "_sphinx"))

    def test_every_public_name_has_an_entry_and_says_what_it_is(self, made):
        page = made.api_page()
        for module in made.public_modules():
            for name in module.__all__:
                assert re.search(rf"^(   |\.\. py:data:: ){name}$", page, re.M) or name == "__version__", name
                value = getattr(module, name)
                if inspect.isclass(value) or inspect.isfunction(value):
                    assert len(inspect.getdoc(value) or "") > 20, f"{module.__name__}.{name} has no docstring"

    # Whose example is that of another name, and why.
    SHOWN_BY = {"Prepared": "prepare_finetuning"}  # which makes one; nobody makes it by hand

    def test_every_public_name_has_an_example(self, made):
        for name, value in self.callables(made):
            assert ">>> " in inspect.getdoc(value) or name in self.SHOWN_BY, name

    def test_every_public_name_says_which_errors_it_raises(self, made):
        for name, value in self.callables(made):
            code = value.__dict__.get("__init__") if inspect.isclass(value) else value
            raises = inspect.isfunction(code) and re.search(r"^ +raise \w+Error", self.source_of(code), re.M)
            assert not raises or "Raises:" in inspect.getdoc(value), name

    def test_every_public_name_says_the_shapes_of_arrays(self, made):
        shape = re.compile(r"\([^()]*\b[A-Z]\b[^()]*\)|\bscalar|\bshape|\(\w+, \d+, \d+\)")
        for name, value in self.callables(made):
            signature = value.__dict__.get("__init__") if inspect.isclass(value) else value
            if inspect.isfunction(signature) and re.search("ndarray|Tensor", str(inspect.signature(signature))):
                assert shape.search(inspect.getdoc(value).partition("Example:")[0]), name

    @staticmethod
    def callables(made) -> list[tuple[str, Any]]:
        """Public classes and functions by name."""
        named = [(name, getattr(module, name)) for module in made.public_modules() for name in module.__all__]
        return [(name, value) for name, value in named if inspect.isclass(value) or inspect.isfunction(value)]

    @staticmethod
    def source_of(code) -> str:
        """Source of a function; nothing of a dataclass's ``__init__``, which no file has."""
        return "" if code.__code__.co_filename.startswith("<") else inspect.getsource(code)

    def test_every_key_of_the_recipes_has_an_entry_with_its_meaning(self, made):
        page = made.recipes_page()
        for key in explain(""):
            if any(key.defaults.values()):
                row = next(line for line in page.splitlines() if line.startswith(f"| `{key.name}` |"))
                assert len(row.split(" | ")[1].strip()) > 3, key.name

    def test_so_has_every_key_that_a_choice_brings(self):
        keys = {key.name: key for key in explain("")}
        assert keys["diet.quantile"].only_with == ("diet=quantile",) and not keys["diet.rule"].only_with
        assert {"ssl.decay", "optim.base_lr", "frames.fold", "frame_loss.weights.ssim"} <= set(keys)
        for key in keys.values():
            assert len(key.meaning) > 3 or not any(key.defaults.values()), key.name

    def test_every_recipe_file_is_shown(self, made):
        page = made.recipes_page()
        for path in (ROOT / "recipes").rglob("*.yaml"):
            assert f"../../../{path.relative_to(ROOT)}\n" in page

    def test_every_error_says_when(self, made):
        assert all(len(row.split("|")[2].strip()) > 10 for row in made.errors_table().splitlines()[2:])


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 80


def test_versions_agree():
    assert f"version: {poyo_ssl_plugin.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## [{poyo_ssl_plugin.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
