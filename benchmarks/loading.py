"""Windows from files to batches, in one process."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_brain.transforms import Compose, UnitDropout

from benchmarks.harness import Row, Settings, race, resident
from benchmarks.recordings import allen_size
from poyo_ssl_plugin import CalciumPOYO, Diet, DietUnitDropout, PredictabilitySampler, Recordings, score_dataset
from poyo_ssl_plugin.compat import Dataset
from poyo_ssl_plugin.data import StandardizeTraces
from poyo_ssl_plugin.models import adapt
from poyo_ssl_plugin.training.tokens import TaskTokenizer, collate_windows

WINDOW, BATCH = 2.0, 32
DROPOUT = {"min_units": 10, "mode_units": 50, "max_units": 300, "tail_right": 100}


class StockRecordings(Dataset):
    """The stock dataset, with ``rois`` found as ``units`` so that the stock transforms run at all."""

    def get_recording_hook(self, data: Any) -> None:
        data.rois.id = np.array([f"{data.session.id}/{unit}" for unit in data.rois.id.astype(str)])
        data.units = data.rois
        super().get_recording_hook(data)


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    folder = allen_size(settings)
    ours, standardized, stock, windows = loaders(folder)
    n = settings.pick(256, 64)
    best = race(
        {
            "ours": lambda: load_batches(ours, windows[:n]),
            "ours, standardized": lambda: load_batches(standardized, windows[:n]),
            "stock": lambda: load_batches(stock, windows[:n]),
        },
        settings.pick(9, 2),
        clock=time.process_time,
    )
    per_second = {name: n / seconds for name, seconds in best.items()}
    yield Row(
        "window loading, Allen-size recording",
        "Dataset + UnitDropout",
        per_second["ours"] / per_second["stock"],
        5,
        details={"windows per second of processor time": per_second},
    )
    n = settings.pick(100_000, 2_000)
    yield Row(f"  growth of memory over {n:,} windows", "-", growth(ours, windows, n) / 2**20, 8, "<=", "MB")
    yield Row("  windows that a spawned worker loads", "windows asked", in_spawned_worker(ours, windows[:64]), 1)


def loaders(folder: Path) -> tuple[Recordings, Recordings, StockRecordings, list[Any]]:
    """Datasets that give model inputs, ours and stock, and windows to ask of them."""
    recordings = Recordings(folder)
    table = score_dataset(recordings)
    diet = Diet.everything(table)
    model = CalciumPOYO(sequence_length=WINDOW, latent_step=0.5, dim_out=8, patch_size=10, dim=32, depth=1)
    model.init_vocabs(recordings)
    tokenize = TaskTokenizer(adapt(model), None)
    fields = ["calcium_traces"]
    ours = Recordings(folder, transform=Compose([DietUnitDropout(diet, **DROPOUT), tokenize]), fields=fields)
    steps = [DietUnitDropout(diet, **DROPOUT), StandardizeTraces(table), tokenize]
    standardized = Recordings(folder, transform=Compose(steps), fields=fields)
    stock = StockRecordings(folder)
    stock.transform = Compose([UnitDropout("calcium_traces.df_over_f", **DROPOUT), tokenize])
    intervals = recordings.get_sampling_intervals("train")
    generator = torch.Generator().manual_seed(0)
    sampler = PredictabilitySampler(sampling_intervals=intervals, window_length=WINDOW, diet=diet, generator=generator)
    np.random.seed(0)
    return ours, standardized, stock, list(sampler)


def load_batches(dataset: Any, windows: list[Any]) -> None:
    for first in range(0, len(windows), BATCH):
        collate_windows([dataset[window] for window in windows[first : first + BATCH]])


def growth(dataset: Recordings, windows: list[Any], n: int) -> int:
    """Bytes of memory that loading ``n`` windows leaves behind, after the first tenth of them."""
    before = 0
    for i, window in enumerate(islice(cycle(windows), n)):
        if i == n // 10:
            before = resident()
        dataset[window]
    return resident() - before


def in_spawned_worker(dataset: Recordings, windows: list[Any]) -> float:
    """Share of windows that a process which knows nothing of this one loads alike."""
    expected = [dataset[window]["inputs"]["input_values"].obj for window in windows]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        loaded = pool.apply(load_pickled, (pickle.dumps(dataset), windows))
    return float(np.mean([np.array_equal(a, b) for a, b in zip(loaded, expected, strict=True)]))


def load_pickled(dataset: bytes, windows: list[Any]) -> list[Any]:
    again = pickle.loads(dataset)
    return [again[window]["inputs"]["input_values"].obj.numpy() for window in windows]
