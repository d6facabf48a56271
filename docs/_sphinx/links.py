"""Links out of the reference: to the pages of other projects, and to our own names by their short form.

No inventory of another project is fetched, so the site is built offline. The few names of others that our signatures
have are listed here with the page that each stands on, and become one small inventory for each project.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from poyo_ssl_plugin import errors

MADE = Path(__file__).resolve().parents[1] / "reference" / "made"
# Project to the address of its pages, and name of a class, as a signature or a docstring has it, to its place there.
ELSEWHERE: dict[str, tuple[str, dict[str, str]]] = {
    "python": (
        "https://docs.python.org/3/",
        {
            **{
                f"collections.abc.{name}": f"library/collections.abc.html#collections.abc.{name}"
                for name in ("Callable", "Collection", "Generator", "Iterable", "Iterator", "Mapping", "Sequence")
            },
            **dict.fromkeys(("Path", "pathlib.Path"), "library/pathlib.html#pathlib.Path"),
        },
    ),
    "numpy": (
        "https://numpy.org/doc/stable/",
        {
            "numpy.ndarray": "reference/generated/numpy.ndarray.html",
            "numpy.dtype": "reference/generated/numpy.dtype.html",
            "numpy.random.mtrand.RandomState": "reference/random/legacy.html#numpy.random.RandomState",
            "numpy.random._generator.Generator": "reference/random/generator.html#numpy.random.Generator",
        },
    ),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {
            "torch.Tensor": "tensors.html#torch.Tensor",
            "torch._C.Generator": "generated/torch.Generator.html",
            "torch.device": "tensor_attributes.html#torch.device",
            "torch.nn.modules.module.Module": "generated/torch.nn.Module.html",
            "torch.utils.data.dataloader.DataLoader": "data.html#torch.utils.data.DataLoader",
        },
    ),
    "lightning": (
        "https://lightning.ai/docs/pytorch/stable/",
        {
            f"lightning.pytorch.core.{name}": f"api/lightning.pytorch.core.{name}.html"
            for name in ("LightningDataModule", "LightningModule")
        },
    ),
    "omegaconf": (
        "https://omegaconf.readthedocs.io/en/2.3_branch/",
        dict.fromkeys(("DictConfig", "omegaconf.dictconfig.DictConfig"), "usage.html"),
    ),
    # The guide of its data format; its pages of single classes move from version to version.
    "torch_brain": (
        "https://torch-brain.readthedocs.io/en/latest/",
        {
            **dict.fromkeys(
                (
                    "Data",
                    "torch_brain.data.data.Data",
                    "torch_brain.data.interval.Interval",
                    "torch_brain.data.irregular_ts.IrregularTimeSeries",
                    "torch_brain.data.regular_ts.RegularTimeSeries",
                ),
                "guides/data/index.html",
            ),
            **dict.fromkeys(("Dataset", "torch_brain.datasets.dataset.Dataset"), "index.html"),
            "torch_brain.nn.infinite_vocab_embedding.InfiniteVocabEmbedding": "index.html",
        },
    ),
}


def intersphinx_mapping() -> dict[str, tuple[str, str]]:
    """Project to its address and its inventory, for the extension ``sphinx.ext.intersphinx``."""
    return {name: (address, str(MADE / f"{name}.inv")) for name, (address, _) in ELSEWHERE.items()}


def write_inventories() -> None:
    """Write ``<project>.inv`` for each project, in the second version of Sphinx's format."""
    MADE.mkdir(parents=True, exist_ok=True)
    for project, (_, places) in ELSEWHERE.items():
        head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
        head += "# The remainder of this file is compressed using zlib.\n"
        lines = "".join(f"{name} py:class 1 {place} -\n" for name, place in places.items())
        (MADE / f"{project}.inv").write_bytes(head.encode() + zlib.compress(lines.encode()))


def short_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Any) -> nodes.reference | None:
    """Where a name leads that the module of its page does not have: errors to their page, else its namesake."""
    if node.get("refdomain") != "py":
        return None
    target = str(node["reftarget"])
    if target.rpartition(".")[2] in vars(errors):
        return make_refnode(app.builder, node["refdoc"], "reference/errors", None, content, target)
    # A method by its class and itself, all else by itself: what is offered in two places has its page in one.
    end = "." + ".".join(target.split(".")[-2 if node["reftype"] == "meth" else -1 :])
    found = [(full, entry) for full, entry in env.domains["py"].data["objects"].items() if full.endswith(end)]
    if not found:
        return None
    full, entry = min(found, key=lambda pair: len(pair[0]))
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, full)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx before it reads inventories."""
    write_inventories()
    app.connect("missing-reference", short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
