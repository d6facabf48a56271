"""The one place that knows which generation of torch_brain is installed.

torch_brain 0.2 holds what used to be ``temporaldata`` (``torch_brain.data``) and ``brainsets``
(``torch_brain.pipeline``, ``torch_brain.datasets``). Before it, torch_brain 0.1 came with those two
beside it. Everything else in this package imports their classes from here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

GENERATION = "0.2" if importlib.util.find_spec("torch_brain.datasets") else "0.1"

if GENERATION == "0.2":
    from torch_brain.batching import collate, pad, pad2d, track_mask, track_mask2d
    from torch_brain.data import (
        ArrayDict,
        BrainsetDescription,
        Data,
        DeviceDescription,
        Interval,
        IrregularTimeSeries,
        RegularTimeSeries,
        SessionDescription,
        SubjectDescription,
    )
    from torch_brain.datasets import Dataset, DatasetIndex
    from torch_brain.models import POYO
    from torch_brain.models.poyo import FeedForward, create_linspace_latent_tokens
    from torch_brain.samplers import RandomFixedWindowSampler
else:
    from brainsets import serialize_fn_map
    from brainsets.descriptions import (
        BrainsetDescription,
        DeviceDescription,
        SessionDescription,
        SubjectDescription,
    )
    from temporaldata import ArrayDict, Data, Interval, IrregularTimeSeries, RegularTimeSeries
    from torch_brain.data import collate, pad, pad2d, track_mask, track_mask2d
    from torch_brain.data.sampler import RandomFixedWindowSampler
    from torch_brain.dataset import Dataset, DatasetIndex
    from torch_brain.models import POYO
    from torch_brain.nn import FeedForward
    from torch_brain.utils import create_linspace_latent_tokens

from torch_brain.nn import (  # noqa: E402  the same in both generations
    InfiniteVocabEmbedding,
    RotaryCrossAttention,
    RotarySelfAttention,
    RotaryTimeEmbedding,
)
from torch_brain.transforms.unit_dropout import TriangleDistribution  # noqa: E402

# A pipeline runs without this package, so where the others are is known beside it.
from poyo_ssl_plugin.pipelines.allen_brain_observatory.stock import pipelines_dir  # noqa: E402

if TYPE_CHECKING:
    from torch_brain.registry import ModalitySpec

__all__ = [
    "GENERATION",
    "POYO",
    "ArrayDict",
    "BrainsetDescription",
    "Data",
    "Dataset",
    "DatasetIndex",
    "DeviceDescription",
    "FeedForward",
    "InfiniteVocabEmbedding",
    "Interval",
    "IrregularTimeSeries",
    "RandomFixedWindowSampler",
    "RegularTimeSeries",
    "RotaryCrossAttention",
    "RotarySelfAttention",
    "RotaryTimeEmbedding",
    "SessionDescription",
    "SubjectDescription",
    "TriangleDistribution",
    "collate",
    "create_linspace_latent_tokens",
    "interval",
    "modality",
    "pad",
    "pad2d",
    "pipelines_dir",
    "regular_series",
    "track_mask",
    "track_mask2d",
    "write_recording",
]


def write_recording(data: Data, path: Path) -> None:
    """Write a recording as brainsets HDF5, as the pipelines of this generation do."""
    options = {} if GENERATION == "0.2" else {"serialize_fn_map": serialize_fn_map}
    with h5py.File(path, "w") as file:
        data.to_hdf5(file, **options)


def regular_series(*, sampling_rate: float, start: float, **arrays: np.ndarray) -> RegularTimeSeries:
    """A regular time series whose first row is at ``start`` seconds."""
    return RegularTimeSeries(sampling_rate=sampling_rate, domain_start=float(start), **arrays)


def interval(pairs: np.ndarray, **columns: np.ndarray) -> Interval:
    """An ``Interval`` from times of shape (R, 2) and further columns of length R."""
    pairs = np.asarray(pairs, dtype=np.float64).reshape(-1, 2)
    return Interval(start=pairs[:, 0].copy(), end=pairs[:, 1].copy(), **columns)


def modality(name: str, dim: int, index: int) -> ModalitySpec:
    """What a model of torch_brain 0.1 wants to know of a classification task, a ``ModalitySpec``.

    Its tokenizers look every task up by name in a registry, so the name is registered where it is not.

    Args:
        name: Name of the task.
        dim: Number of classes.
        index: Number of the task in the model, from 1.
    """
    from torch_brain.nn.loss import CrossEntropyLoss
    from torch_brain.registry import MODALITY_REGISTRY, DataType, ModalitySpec, register_modality

    options = {
        "dim": dim,
        "type": DataType.MULTINOMIAL,
        "timestamp_key": f"{name}.timestamps",
        "value_key": f"{name}.value",
        "loss_fn": CrossEntropyLoss(),
    }
    if name not in MODALITY_REGISTRY:
        register_modality(name, **options)
    return ModalitySpec(id=index, **options)
