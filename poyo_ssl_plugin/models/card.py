"""The model card: what a model is, what it has seen, and how well it did, for whoever finds its weights."""

from __future__ import annotations

from collections.abc import Mapping

import yaml
from torch import nn

from poyo_ssl_plugin.configuration import flat
from poyo_ssl_plugin.plain import ReadOnlyValues, Values

_HEADER = {
    "library_name": "poyo-ssl-plugin",
    "tags": ["neuroscience", "calcium-imaging", "torch_brain", "self-supervised-learning"],
}


def model_card(model: nn.Module, record: ReadOnlyValues, scores: Mapping[str, float]) -> str:
    """The card as Markdown, with the header that the Hugging Face Hub reads.

    Args:
        model: The model.
        record: What its checkpoint says of it; ``"model"`` has its arguments.
        scores: Name to value of what was measured.
    """
    size = sum(p.numel() for name, p in model.named_parameters() if "unit_emb" not in name and "session" not in name)
    recipe = record.get("recipe", {})
    parts = [
        f"---\n{yaml.safe_dump(_HEADER, sort_keys=False)}---",
        f"# {type(model).__name__}\n",
        f"A POYO for calcium traces with {size:,} weights beside those of its neurons and recordings.\n",
        "```python\nfrom poyo_ssl_plugin import CalciumPOYO\n",
        'model = CalciumPOYO.from_pretrained("FOLDER or OWNER/NAME")',
        "model.adapt_to(dataset)  # your recordings\n```\n",
        *_section("What it has seen", _seen(record)),
        *_section("Diet", _values(recipe.get("diet", {}))),
        *_section("Scores", [f"{name}: {value:.4g}" for name, value in scores.items()]),
        *_section("Leaks", _values(record.get("leaks", {}))),
        *_section("Model", _values(record["model"])),
    ]
    if recipe:
        parts.append(f"## Recipe\n\n```yaml\n{yaml.safe_dump(_without_places(recipe), sort_keys=False)}```")
    return "\n".join(parts)


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}\n", *(f"- {line}" for line in lines or ["not recorded"]), ""]


def _seen(record: ReadOnlyValues) -> list[str]:
    seen = record.get("trained_on", {})
    lines = []
    for name, units in seen.get("units", {}).items():
        seconds = sum(end - start for start, end in seen.get("intervals", {}).get(name, []))
        subject = seen.get("subjects", {}).get(name) or "not named"
        lines.append(f"recording {name} (subject {subject}): {len(units)} neurons, {seconds:.0f} s")
    if record.get("pretrained_on"):
        lines.append(f"pretrained before on {', '.join(record['pretrained_on'].get('units', {}))}")
    return lines


def _values(mapping: ReadOnlyValues) -> list[str]:
    return [f"{key}: {value}" for key, value in flat(_without_places(mapping)).items()]


# Keys with places on the machine that trained, which say nothing elsewhere.
_PLACES = ("root", "table", "out_dir", "init_from")


def _without_places(recipe: ReadOnlyValues) -> Values:
    return {
        key: _without_places(value) if isinstance(value, Mapping) else value
        for key, value in recipe.items()
        if key not in _PLACES
    }
