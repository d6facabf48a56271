"""Draw docs/figures/calibration.png: simulated against real recordings.

    python docs/figures/calibration.py REAL_DIR

REAL_DIR holds real recordings as brainsets HDF5: 501574836.h5, of 242 excitatory neurons over 64 minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from poyo_ssl_plugin.compare.figures import GREY, PREDICTABLE, style
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.predictability import PAPER_KURTOSIS, PAPER_SKEWNESS, skewness_kurtosis
from poyo_ssl_plugin.simulation import make_movie, make_recording, oracle_accuracy
from poyo_ssl_plugin.simulation.calibration import REFERENCE, measure_population

SECONDS = 120
SEED = 50


def noise_level(x: np.ndarray) -> np.ndarray:
    """Noise of each column in dF/F, from differences of neighbouring frames."""
    return np.median(np.abs(np.diff(x, axis=0)), axis=0) / (0.6745 * np.sqrt(2))


def event_rate(x: np.ndarray, rate: float) -> np.ndarray:
    """Crossings of five times the noise above the median, per minute, of each column."""
    above = x > np.median(x, axis=0) + 5 * noise_level(x)
    return (above[1:] & ~above[:-1]).sum(axis=0) / (len(x) / rate / 60)


def measures(x: np.ndarray, rate: float) -> dict[str, np.ndarray]:
    skewness, kurtosis = skewness_kurtosis(x)
    return {
        "skewness": skewness,
        "excess kurtosis": kurtosis,
        "noise (dF/F)": noise_level(x),
        "events per minute": event_rate(x, rate),
    }


def spectrum(x: np.ndarray, rate: float) -> np.ndarray:
    """Eigenvalues of the correlation of bins of 1/3 s, as shares, largest first."""
    width = round(rate / 3)
    binned = x[: len(x) // width * width].reshape(-1, width, x.shape[1]).mean(axis=1)
    return np.linalg.eigvalsh(np.corrcoef(binned.T))[::-1] / x.shape[1]


def draw(real_dir: Path, path: Path) -> None:
    recording = Recordings(real_dir).get_recording("501574836")
    real = np.asarray(recording.calcium_traces.df_over_f, dtype=float)
    movie = make_movie(SEED)
    recordings = {
        line: make_recording("x", line, n, minutes, movie, np.random.default_rng([SEED, 0]))
        for line, (n, minutes) in {"Cux2_CreERT2": (242, 64), "Pvalb_IRES_Cre": (60, 10)}.items()
    }
    simulated = {line: np.asarray(data.calcium_traces.df_over_f, dtype=float) for line, data in recordings.items()}
    shown = recordings["Cux2_CreERT2"].natural_movie_one
    found = measure_population(simulated["Cux2_CreERT2"], 30.0, shown.start[shown.frame == 0])
    print("| measure | session 501574836 | simulated |\n| --- | --- | --- |")
    for name, (value, _) in REFERENCE.items():
        print(f"| {name} | {value:.3f} | {found[name]:.3f} |")
    for line, n_minutes in (("Cux2_CreERT2", 14), ("Sst_IRES_Cre", 14)):
        data = make_recording("x", line, 80, n_minutes, movie, np.random.default_rng([SEED, 5]))
        print(line, {task: oracle_accuracy(data, task) for task in ("drifting_gratings", "natural_movie")})
    sets = {
        "session 501574836": (measures(real, 30.03), "black"),
        "simulated Cux2": (measures(simulated["Cux2_CreERT2"], 30.0), PREDICTABLE),
        "simulated Pvalb": (measures(simulated["Pvalb_IRES_Cre"], 30.0), GREY),
    }
    with style():
        figure, axes = plt.subplots(2, 5, figsize=(17, 6.4), height_ratios=[1.2, 1])
        for axis, name in zip(axes[0, :4], next(iter(sets.values()))[0], strict=True):
            for label, (values, colour) in sets.items():
                x = np.sort(values[name])
                axis.plot(x, np.linspace(0, 1, len(x)), color=colour, lw=1.8, label=label)
            limit = {"skewness": PAPER_SKEWNESS, "excess kurtosis": PAPER_KURTOSIS}.get(name)
            if limit is not None:
                axis.axvline(limit, color="black", lw=1, ls="--")
            if name == "excess kurtosis":
                axis.set_xscale("symlog", linthresh=1)
            axis.set_xlabel(name)
            axis.set_ylabel("share of neurons")
        axes[0, 0].legend(fontsize=8)
        for x, rate, colour in ((real, 30.03, "black"), (simulated["Cux2_CreERT2"], 30.0, PREDICTABLE)):
            axes[0, 4].loglog(np.arange(1, x.shape[1] + 1), spectrum(x, rate), color=colour, lw=1.8)
        axes[0, 4].set_xlabel("component, bins of 1/3 s")
        axes[0, 4].set_ylabel("share of variance")
        grid = axes[1, 0].get_gridspec()
        for axis in axes[1]:
            axis.remove()
        for column, (title, x, rate) in enumerate(
            (("session 501574836", real, 30.03), ("simulated Cux2", simulated["Cux2_CreERT2"], 30.0))
        ):
            axis = figure.add_subplot(grid[1, (0, 3)[column] : (3, 5)[column]])
            order = np.argsort(skewness_kurtosis(x)[0])
            rows = int(SECONDS * rate)
            for i, share in enumerate((0.1, 0.3, 0.5, 0.7, 0.9)):
                trace = x[:rows, order[int(share * len(order))]]
                axis.plot(np.arange(rows) / rate, trace - np.median(trace) - 1.2 * i, color="black", lw=0.5)
            axis.set_title(f"{title}: neurons at five quantiles of skewness", fontsize=10)
            axis.set_yticks([])
            axis.set_xlabel("time (s)")
            axis.grid(visible=False)
        figure.savefig(path, dpi=90)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    draw(Path(sys.argv[1]), Path(__file__).with_name("calibration.png"))
