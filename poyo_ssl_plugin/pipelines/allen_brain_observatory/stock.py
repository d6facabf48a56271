"""Where the stock pipelines of torch_brain are, in either generation, and how to load one.

With ``compat.py``, which takes this from here, the only code that knows of generations: a pipeline runs
where this package is not installed.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

STOCK = "allen_visual_coding_ophys_2016"


def pipelines_dir() -> Path:
    """The folder whose subfolders ``brainsets list`` shows and ``brainsets prepare`` knows.

    Raises:
        ModuleNotFoundError: If neither torch_brain 0.2 nor brainsets is installed.

    Example:
        >>> (pipelines_dir() / STOCK / "pipeline.py").is_file()
        True
    """
    # Looking for a submodule would import torch_brain, and that of the earlier generation imports torch.
    for package, inside in (("torch_brain", "pipeline/brainsets-pipelines"), ("brainsets_pipelines", ".")):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations if spec else None) or ():
            if (folder := Path(location, inside)).is_dir():
                return folder
    raise ModuleNotFoundError("neither torch_brain 0.2 nor brainsets is installed, so there is no 'brainsets prepare'")


def load_pipeline(name: str = STOCK) -> ModuleType:
    """Import the ``pipeline.py`` of a stock pipeline, with the modules that lie beside it.

    Args:
        name: Its folder.

    Raises:
        FileNotFoundError: If there is no such pipeline.
        ImportError: If what it needs (AllenSDK) is not installed.
    """
    path = pipelines_dir() / name / "pipeline.py"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such pipeline; this one extends it, so install torch_brain or brainsets")
    spec = importlib.util.spec_from_file_location(f"stock_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    # brainsets runs a pipeline in its own folder; stock pipelines count on finding their modules there.
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module
