"""What is installed, what will be used, and what to do about what is missing."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

from poyo_ssl_plugin.configuration import plugin_dir, recipes_dir
from poyo_ssl_plugin.errors import ExtensionError
from poyo_ssl_plugin.extensions import KINDS, extension_names, load_extension

# What nothing works without.
_NEEDED = ("torch_brain generation", "recipes", "Hydra")


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
    """Look at versions, generation, device, attention kernels, recipes, Hydra, extensions and the pipeline."""
    import torch

    from poyo_ssl_plugin.provenance import versions

    # torch itself says which build it is (2.13.0+cu130); the package of that build on PyPI is 2.13.0.
    found = [Finding(name, version) for name, version in {**versions(), "torch": str(torch.__version__)}.items()]
    return [*found, _generation(), *_device(), _recipes(), _hydra(), *_extensions(), _pipeline()]


def next_step(findings: list[Finding]) -> str:
    """What to do after reading the report: repair what nothing works without, else begin."""
    for finding in findings:
        if finding.remedy and finding.what in _NEEDED:
            return f"{finding.what}: {finding.remedy}"
    return "'poyo-ssl demo', or 'poyo-ssl check DIR' on recordings of yours; all that is needed is here"


def _generation() -> Finding:
    what = "torch_brain generation"
    try:
        from poyo_ssl_plugin.compat import GENERATION
    except ImportError as error:
        remedy = "pip install 'torch_brain>=0.2,<0.3', or 'poyo-ssl-plugin[legacy]' for the previous generation"
        return Finding(what, f"cannot be imported: {error}", remedy)
    older = [name for name in ("temporaldata", "brainsets") if _installed(name)]
    if GENERATION == "0.2" and older:
        remedy = f"torch_brain 0.2 holds what these were, and they shadow it: pip uninstall {' '.join(older)}"
        return Finding(what, f"0.2, and beside it {' and '.join(older)} of the previous one", remedy)
    return Finding(what, {"0.2": "0.2 (current)", "0.1": "0.1, with temporaldata and brainsets"}[GENERATION])


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _device() -> list[Finding]:
    import torch

    kernel = "torch scaled_dot_product_attention"
    if not torch.cuda.is_available():
        threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
        remedy = "for a GPU install a CUDA build of torch: https://pytorch.org"
        if torch.version.cuda:
            remedy = "torch is a CUDA build, but finds no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES"
        return [
            Finding("device", f"CPU, {threads}", remedy),
            Finding("attention", f"{kernel} on the CPU"),
            Finding("batches without padding", "one attention a window"),
        ]
    from poyo_ssl_plugin.models.packed_attention import packed_kernel

    usable = _cuda_kernels()
    remedy = "" if set(usable) - {"math"} else "only the slow kernel is left: use bf16-mixed or a newer torch or GPU"
    return [
        Finding("device", torch.cuda.get_device_name(0)),
        Finding("attention", f"{kernel}: {', '.join(usable)}", remedy),
        _packing(packed_kernel("cuda")),
    ]


def _packing(kernel: str | None) -> Finding:
    """How batches of the attention encoder are fed without padding on a GPU."""
    what = "batches without padding"
    if kernel == "xformers":
        return Finding(what, "xformers block-diagonal masks")
    remedy = "pip install 'poyo-ssl-plugin[cuda]'"
    if _installed("xformers"):
        remedy = "xformers is installed but does not work with this torch: reinstall the version made for it"
    return Finding(what, "torch nested tensors" if kernel else "none: padded with a mask", remedy)


def _cuda_kernels() -> list[str]:
    """Kernels that attention with a padding mask, as every batch has it, can use on the GPU."""
    import torch

    query = torch.zeros(1, 2, 8, 32, device="cuda", dtype=torch.float32)
    mask = torch.ones(1, 1, 1, 8, device="cuda", dtype=torch.bool).expand(1, 2, 8, 8)
    cuda = torch.backends.cuda
    params = cuda.SDPAParams(query, query, query, mask, 0.0, False, False)
    kernels = {
        "flash": cuda.flash_sdp_enabled() and cuda.can_use_flash_attention(params),
        "memory-efficient": cuda.mem_efficient_sdp_enabled() and cuda.can_use_efficient_attention(params),
        "math": cuda.math_sdp_enabled(),
    }
    return [name for name, usable in kernels.items() if usable]


def _recipes() -> Finding:
    folder = recipes_dir()
    n = len(list(folder.glob("**/*.yaml")))
    return Finding("recipes", f"{n} files in {folder}", "" if n else "reinstall the package")


def _hydra() -> Finding:
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    names = [plugin.__name__ for plugin in Plugins.instance().discover(SearchPathPlugin)]
    groups = sorted(path.name for path in plugin_dir().glob("*") if path.is_dir() and path.name != "poyo_ssl")
    if "PoyoSSLSearchPath" in names and groups:
        return Finding("Hydra", f"every application finds {', '.join(groups)}")
    remedy = "reinstall the package with pip; until then pass hydra.searchpath=[file://" + f"{plugin_dir()}]"
    return Finding("Hydra", "does not see this package's groups: '+diet=...' would be a plain key", remedy)


def _extensions() -> list[Finding]:
    """A line for each group in which other distributions offer something, and for each that is broken."""
    found = []
    for kind in KINDS:
        works = []
        for name in extension_names(kind):
            try:
                load_extension(kind, name)
                works.append(name)
            except ExtensionError as error:
                found.append(Finding(f"further {kind}", f"{name} is broken", str(error)))
        if works:
            found.append(Finding(f"further {kind}", ", ".join(works)))
    return found


def _pipeline() -> Finding:
    from poyo_ssl_plugin.register import registration

    state = registration()
    return Finding("brainsets pipeline", state.found, state.remedy)
