"""Draw docs/figures/architecture.svg: which part of the package imports which.

    python docs/figures/architecture.py

An arrow leads from a part to one that imports it when it is loaded (of commands: when they are called). Arrows that
follow from others are left out.
"""

from __future__ import annotations

import ast
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "poyo_ssl_plugin"
# Single modules at the top that all parts use are one box.
SHARED = "errors, files,\ncompat, ..."
COLOURS = ("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")


def part_of(path: Path) -> str:
    """The subpackage, or the module, that a file belongs to."""
    first = path.relative_to(PACKAGE).parts[0]
    return first if (PACKAGE / first).is_dir() else first.removesuffix(".py")


def imports() -> dict[str, set[str]]:
    """For every part, the parts that its files import at the top."""
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if "pipelines" in path.parts or path == PACKAGE / "__init__.py":
            continue
        part = part_of(path)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Commands import what they need when they are called.
        for node in ast.walk(tree) if part == "cli" else tree.body:
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [name.name for name in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                names = module.split(".")
                if names[0] == "poyo_ssl_plugin" and len(names) > 1 and names[1] != part:
                    found.setdefault(part, set()).add(names[1])
        found.setdefault(part, set())
    return found


def with_shared(needs: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same, with modules at the top that import no subpackage as one part."""
    packages = {part for part in needs if (PACKAGE / part).is_dir()}
    alone = {part for part in needs if part not in packages and not reach(needs, part) & packages}
    merged: dict[str, set[str]] = {SHARED: set()}
    for part, needed in needs.items():
        if part in packages:
            merged[part] = {SHARED if other in alone else other for other in needed} & (packages | {SHARED})
    return merged


def reach(needs: dict[str, set[str]], start: str) -> set[str]:
    """All that a part imports, directly or by others."""
    seen: set[str] = set()
    left = [start]
    while left:
        for other in needs.get(left.pop(), set()) - seen:
            seen.add(other)
            left.append(other)
    return seen


def levels(needs: dict[str, set[str]]) -> dict[str, int]:
    """How many parts lie below each, at most; parts that import each other share a level."""
    known: dict[str, int] = {}

    def level(part: str) -> int:
        if part not in known:
            known[part] = 0
            below = [other for other in needs[part] if part not in reach(needs, other)]
            known[part] = 1 + max((level(other) for other in below), default=-1)
        return known[part]

    return {part: level(part) for part in needs}


def draw(needs: dict[str, set[str]]) -> plt.Figure:
    """Boxes by level from left to right."""
    level = levels(needs)
    columns: dict[int, list[str]] = {}
    for part in sorted(needs):
        columns.setdefault(level[part], []).append(part)
    figure, axes = plt.subplots(figsize=(1.75 * len(columns) + 0.5, 2.3), layout="constrained")
    axes.axis("off")
    place = {
        part: (column, 0.5 * (len(parts) - 1) - row + 0.16 * (column % 2))
        for column, parts in columns.items()
        for row, part in enumerate(parts)
    }
    for part, needed in needs.items():
        # What another part that is needed needs too is known by it.
        direct = {other for other in needed if not any(other in reach(needs, third) for third in needed - {other})}
        for other in direct:
            bend = 0.12 if level[part] - level[other] > 1 else 0.0
            arrow = FancyArrowPatch(
                place[other],
                place[part],
                arrowstyle="-|>",
                mutation_scale=11,
                shrinkA=30,
                shrinkB=32,
                color="#8A8F98",
                lw=1,
                connectionstyle=f"arc3,rad={bend}",
            )
            axes.add_patch(arrow)
    for part, (x, y) in place.items():
        colour = COLOURS[level[part] % len(COLOURS)]
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": colour, "lw": 1.6}
        axes.text(x, y, part, ha="center", va="center", fontsize=9, bbox=box, zorder=3)
    axes.set(xlim=(-0.5, max(columns) + 0.5), ylim=(-1.0, 1.0))
    return figure


if __name__ == "__main__":
    matplotlib.rcParams["svg.hashsalt"] = "poyo_ssl_plugin"
    figure = draw(with_shared(imports()))
    figure.savefig(Path(__file__).parent / "architecture.svg", facecolor="white", metadata={"Date": None})
