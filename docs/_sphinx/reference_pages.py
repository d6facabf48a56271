"""Pages of the reference that are made from the package itself: its public names, its recipes, its errors.

They are written to ``docs/reference/made`` before Sphinx looks for pages.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import poyo_ssl_plugin
from poyo_ssl_plugin import errors
from poyo_ssl_plugin.recipe_keys import explain

ROOT = Path(__file__).resolve().parents[2]
MADE = ROOT / "docs" / "reference" / "made"
RECIPES = ROOT / "recipes"
# The command line has a page of its own.
_NO_API = ("poyo_ssl_plugin.cli",)
# Modules that are public by themselves, beside the subpackages.
_ALONE = (
    "poyo_ssl_plugin.configuration",
    "poyo_ssl_plugin.compare.answer",
    "poyo_ssl_plugin.compare.answer_figure",
    "poyo_ssl_plugin.compare.estimates",
    "poyo_ssl_plugin.compare.figures",
    "poyo_ssl_plugin.compare.masked_figure",
    "poyo_ssl_plugin.compare.results",
)


def public_modules() -> Iterator[ModuleType]:
    """The package, and the subpackages and modules that say in ``__all__`` what is public."""
    names = ["poyo_ssl_plugin"]
    names += [
        found.name for found in pkgutil.walk_packages(poyo_ssl_plugin.__path__, "poyo_ssl_plugin.") if found.ispkg
    ]
    for name in (*names, *_ALONE):
        module = importlib.import_module(name)
        if name not in _NO_API and hasattr(module, "__all__"):
            yield module


def public_names() -> dict[str, list[str]]:
    """Names by module; each stands in the first module that offers it, the package itself before its subpackages."""
    seen: set[int] = set()
    found: dict[str, list[str]] = {}
    for module in public_modules():
        for name in module.__all__:
            value = getattr(module, name)
            # Numbers and strings are not told apart by identity.
            if name.startswith("__") or (id(value) in seen and callable(value)):
                continue
            seen.add(id(value))
            found.setdefault(module.__name__, []).append(name)
    return found


def api_page() -> str:
    """One table of public names a module, each name with a page of its own."""
    lines = ["API", "===", ""]
    lines += [
        "Every name here is public: it is in the ``__all__`` of its package, and changes to it are in the",
        "changelog.",
        "",
    ]
    for module, names in public_names().items():
        summary = inspect.getdoc(importlib.import_module(module)) or ""
        lines += [module, "-" * len(module), "", *summary.splitlines(), "", f".. currentmodule:: {module}", ""]
        constants = [name for name in names if not callable(getattr(importlib.import_module(module), name))]
        listed = [f"   {name}" for name in names if name not in constants]
        lines += [".. autosummary::", "   :toctree: api", "   :nosignatures:", "", *listed, ""]
        for name in constants:
            lines += [f".. py:data:: {name}", "", f"   {_value(getattr(importlib.import_module(module), name))}", ""]
    return "\n".join(lines)


def _value(value: object) -> str:
    """A constant in a line: what a mapping has, or the value itself."""
    if isinstance(value, Mapping):
        return f"By name: {', '.join(f'``{key}``' for key in value)}."
    return f"``{value!r}``"


def recipes_page() -> str:
    """Every key of training with its defaults, then every recipe file as it is."""
    lines = ["# Keys of recipes", ""]
    lines += [
        "`poyo-ssl pretrain` and `poyo-ssl finetune` take every key below as `key=value`; `poyo-ssl show KEY` prints",
        "the same. A dash: that command does not have the key.",
        "",
    ]
    sections: dict[str, list[str]] = {}
    for key in explain(""):
        if any(key.defaults.values()):
            section = key.name.partition(".")[0] if "." in key.name else ""
            values = [_default(key.defaults.get(command, "-")) for command in ("pretrain", "finetune")]
            meaning = key.text.replace("|", "\\|")
            sections.setdefault(section, []).append(f"| `{key.name}` | {meaning} | {' | '.join(values)} |")
    for section, rows in sections.items():
        lines += [f"## {f'`{section}`' if section else 'Of the run'}", ""]
        lines += ["| key | meaning | pretrain | finetune |", "| --- | --- | --- | --- |", *rows, ""]
    lines += ["## Recipe files", "", "What each choice sets, with its comments, as installed with the package.", ""]
    for path in sorted(RECIPES.rglob("*.yaml"), key=lambda path: (path.parent != RECIPES, str(path))):
        name = path.relative_to(RECIPES)
        lines += [
            f":::{{dropdown}} {_choice(name)}",
            f"```{{literalinclude}} {_up(path)}",
            ":language: yaml",
            "```",
            ":::",
            "",
        ]
    return "\n".join(lines)


def _default(text: str) -> str:
    return f"`{text}`" if text not in ("", "-") else text


def _choice(name: Path) -> str:
    """How a recipe file is chosen on a command line."""
    group = ".".join(part for part in name.parts[:-1] if part != "plugin")
    if group in ("compare", "scale", "reproduce"):
        return f"`poyo-ssl {group} {'' if group == 'reproduce' else '--preset '}{name.stem}`"
    return f"`{group.replace('.', '/')}={name.stem}`" if group else f"`{name.stem}`"


def _up(path: Path) -> str:
    return f"../../../{path.relative_to(ROOT)}"


def errors_table() -> str:
    """The classes of errors, and what each means."""
    rows = ["| error | when |", "| --- | --- |"]
    for name, value in vars(errors).items():
        if inspect.isclass(value) and value.__module__ == errors.__name__:
            meaning = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).replace("``", "`")
            rows.append(f"| `{name}` | {meaning} |")
    return "\n".join(rows) + "\n"


def write_pages() -> None:
    """Write what has changed, so that an unchanged page is not built again, and remove pages of names that are gone."""
    listed = {f"{module}.{name}" for module, names in public_names().items() for name in names}
    for page in MADE.glob("api/*.rst"):
        if page.stem not in listed:
            page.unlink()
    for name, text in (("api.rst", api_page()), ("recipes.md", recipes_page()), ("errors.txt", errors_table())):
        path = MADE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def setup(app: object) -> dict[str, bool]:
    """Called by Sphinx before it looks for pages."""
    write_pages()
    return {"parallel_read_safe": True, "parallel_write_safe": True}
