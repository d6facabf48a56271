"""Formulas as MathML, by docutils: browsers draw them without a script, so the site works offline."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)
# Sizes of brackets, which MathML chooses by itself.
_SIZES = re.compile(r"\\[bB]igg?[lr]?(?![A-Za-z])")


def _formula(node: nodes.Element, *, as_block: bool) -> str:
    try:
        return tex2mathml(_SIZES.sub("", node.astext()), as_block=as_block)
    except MathError as error:
        logger.warning("a formula is not understood: %s", error, location=node)
        return f"<code>{node.astext()}</code>"


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_formula(node, as_block=False))
    raise nodes.SkipNode


def _block(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="math">{_formula(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Offer the renderer that ``html_math_renderer = "mathml"`` names."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
