"""What is installed, what will be used, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from poyo_ssl_plugin.configuration import recipes_dir


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        what: What was looked at.
        found: What was found.
        remedy: What to do, empty where nothing is wrong.
    """

    what: str
    found: str
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Look at versions, generation, device, attention kernels, recipes, Hydra and the pipeline."""
    from poyo_ssl_plugin.experiments.provenance import versions

    found = [Finding(name, version) for name, version in versions().items()]
    return [*found, _generation(), *_device(), _recipes(), _hydra(), _pipeline()]


def _generation() -> Finding:
    from poyo_ssl_plugin.compat import GENERATION

    both = importlib.util.find_spec("torch_brain.datasets") and importlib.util.find_spec("temporaldata")
    remedy = (
        "torch_brain 0.2 and temporaldata share an environment: uninstall temporaldata and brainsets" if both else ""
    )
    return Finding("torch_brain generation", GENERATION, remedy)


def _device() -> list[Finding]:
    import torch

    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    if not torch.cuda.is_available():
        device = Finding(
            "device", f"CPU, {threads}", "for a GPU install a CUDA build of torch" if not torch.version.cuda else ""
        )
        return [device, Finding("attention", "torch scaled_dot_product_attention on the CPU")]
    xformers = importlib.util.find_spec("xformers") is not None
    kernel = "xformers" if xformers else "torch scaled_dot_product_attention"
    remedy = "" if xformers else "pip install 'poyo-ssl-plugin[cuda]' for variable-length attention"
    return [Finding("device", torch.cuda.get_device_name(0)), Finding("attention", kernel, remedy)]


def _recipes() -> Finding:
    folder = recipes_dir()
    n = len(list(folder.glob("**/*.yaml")))
    return Finding("recipes", f"{n} files in {folder}", "" if n else "reinstall the package")


def _hydra() -> Finding:
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    names = [plugin.__name__ for plugin in Plugins.instance().discover(SearchPathPlugin)]
    if "PoyoSSLSearchPath" in names:
        return Finding("Hydra", "sees this package's recipe groups")
    return Finding("Hydra", "does not see this package's recipe groups", "reinstall the package with pip")


def _pipeline() -> Finding:
    from poyo_ssl_plugin.register import registration

    state = registration()
    return Finding("brainsets pipeline", state.found, state.remedy)
