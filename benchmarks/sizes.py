"""Cost against size over three decades: scoring, sampling and loading."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Row, Settings, race
from benchmarks.loading import loaders
from benchmarks.recordings import simulated
from benchmarks.sampling import exhaust
from benchmarks.scoring import write
from poyo_ssl_plugin import PredictabilitySampler, Recordings, score_dataset
from poyo_ssl_plugin.compat import Interval

Sizes = dict[int, float]
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "figures" / "cost_against_size.png"


def run(settings: Settings) -> Iterator[Row]:
    torch.set_num_threads(1)
    rounds = settings.pick(5, 1)
    curves = {
        "scoring: frames\n(250 neurons)": measure(
            scoring_frames, settings.pick((300, 3_000, 30_000, 300_000), (300, 3_000)), rounds, settings
        ),
        "scoring: neurons\n(10,000 frames)": measure(
            scoring_neurons, settings.pick((3, 30, 300, 3_000), (3, 30)), rounds, settings
        ),
        "sampling: windows\nper epoch": measure(
            sampling_windows, settings.pick((1_000, 10_000, 100_000, 1_000_000), (1_000, 10_000)), rounds, settings
        ),
        "loading: windows\n(250 neurons)": measure(
            loading_windows, settings.pick((10, 100, 1_000, 10_000), (10, 100)), 1, settings
        ),
        "loading: neurons\n(300 windows)": measure(
            loading_neurons, settings.pick((3, 30, 300, 3_000), (3, 30)), rounds, settings
        ),
    }
    if not settings.quick:
        draw(curves, FIGURE)
    for name, curve in curves.items():
        yield Row(
            f"growth of cost, exponent: {' '.join(name.split())}",
            "1: linear",
            exponent(curve),
            1.1,
            "<=",
            "",
            {"processor seconds": curve},
        )


def measure(
    make: Callable[[int, Settings], Callable[[], Any]], sizes: tuple[int, ...], rounds: int, settings: Settings
) -> Sizes:
    peers = {str(size): make(size, settings) for size in sizes}
    return {int(size): seconds for size, seconds in race(peers, rounds, clock=time.process_time).items()}


def exponent(curve: Sizes) -> float:
    """Slope between the two largest sizes in doubly logarithmic axes: below 1 where fixed costs still show."""
    (small, cheap), (large, dear) = sorted(curve.items())[-2:]
    return float(np.log(dear / cheap) / np.log(large / small))


def scoring_frames(n_frames: int, settings: Settings) -> Callable[[], Any]:
    return scoring(settings.folder / f"rows{n_frames}", n_frames, 250)


def scoring_neurons(n_neurons: int, settings: Settings) -> Callable[[], Any]:
    return scoring(settings.folder / f"neurons{n_neurons}", 10_000, n_neurons)


def scoring(folder: Path, n_frames: int, n_neurons: int) -> Callable[[], Any]:
    if not folder.exists():
        write(folder, n_frames, n_neurons)
    dataset = Recordings(folder)
    return lambda: score_dataset(dataset, split=None)


def sampling_windows(n_windows: int, settings: Settings) -> Callable[[], Any]:
    intervals = {f"r{i}": Interval(0.0, n_windows / 10) for i in range(10)}
    sampler = PredictabilitySampler(sampling_intervals=intervals, window_length=1.0)
    return lambda: exhaust(sampler)


def loading_windows(n_windows: int, settings: Settings) -> Callable[[], Any]:
    return loading(simulated(settings, n_units=settings.pick(250, 40), minutes=settings.pick(64, 5)), n_windows)


def loading_neurons(n_neurons: int, settings: Settings) -> Callable[[], Any]:
    return loading(simulated(settings, n_units=n_neurons, minutes=5), 300)


def loading(folder: Path, n_windows: int) -> Callable[[], Any]:
    """Read and standardize whole windows: every neuron is fed, so that their number counts."""
    _, _, _, windows = loaders(folder)
    dataset = Recordings(folder, fields=["calcium_traces"])

    def run() -> None:
        for i in range(n_windows):
            dataset[windows[i % len(windows)]]

    return run


def draw(curves: dict[str, Sizes], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(12.5, 2.9), constrained_layout=True)
    for axis, (name, curve) in zip(axes, curves.items(), strict=True):
        sizes, seconds = np.array(list(curve)), np.array(list(curve.values()))
        axis.loglog(sizes, seconds, "o-", color="tab:blue")
        axis.loglog(sizes, seconds[-1] * sizes / sizes[-1], ":", color="0.6")
        what, _, of = name.partition(": ")
        axis.set_title(f"{what}, exponent {exponent(curve):.2f}", fontsize=9)
        axis.set_xlabel(of, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("processor time (s)", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
