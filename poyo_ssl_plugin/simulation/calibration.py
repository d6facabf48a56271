"""What is measured of real recordings, and what the simulation has to agree with.

All of it is measured on bins of 1/3 s. The reference is session 501574836 of the Allen Brain Observatory
(Cux2-CreERT2, VISp, 242 neurons, 64 minutes, dF/F modelled from its inferred spikes, movie one 10 times):
``measure_population`` of its whole recording and its repeats of the movie gave the values below.
"""

from __future__ import annotations

import numpy as np

BIN_SECONDS = 1 / 3
COMPONENTS = (1, 2, 5, 10, 20, 40, 80)
LAGS = (1, 3, 10, 60)  # s
SIGNAL_LAGS = (1, 3, 6, 9)  # bins

# Value of the reference, and how far a simulated session of its line, length and number of neurons may be from it.
REFERENCE: dict[str, tuple[float, float]] = {
    "variance in 1 component": (0.059, 0.03),
    "variance in 2 components": (0.078, 0.04),
    "variance in 5 components": (0.128, 0.05),
    "variance in 10 components": (0.189, 0.065),
    "variance in 20 components": (0.283, 0.06),
    "variance in 40 components": (0.422, 0.05),
    "variance in 80 components": (0.618, 0.05),
    "pairwise correlation, 5 %": (-0.021, 0.015),
    "pairwise correlation, 50 %": (0.038, 0.02),
    "pairwise correlation, 95 %": (0.136, 0.06),
    "memory of the signal, 1 bins": (0.871, 0.12),
    "memory of the signal, 3 bins": (0.505, 0.12),
    "memory of the signal, 6 bins": (0.228, 0.12),
    "memory of the signal, 9 bins": (0.095, 0.12),
    "signal share of a neuron, 25 %": (0.043, 0.06),
    "signal share of a neuron, 50 %": (0.135, 0.06),
    "signal share of a neuron, 75 %": (0.265, 0.08),
    "signal share of a neuron, 95 %": (0.593, 0.24),
    "signal covariance, mean": (0.009, 0.015),
    "signal covariance, spread": (0.064, 0.02),
    "noise correlation, mean": (0.06, 0.02),
    "noise correlation, spread": (0.05, 0.02),
    "signal with noise correlation": (0.059, 0.12),
    "memory of the population's mean, 1 s": (0.656, 0.12),
    "memory of the population's mean, 3 s": (0.408, 0.12),
    "memory of the population's mean, 10 s": (0.212, 0.17),
    "memory of the population's mean, 60 s": (0.159, 0.22),
}


def measure_population(traces: np.ndarray, rate: float, repeat_start: np.ndarray) -> dict[str, float]:
    """How the neurons of a recording vary together.

    Args:
        traces: dF/F, (T, N), whose first row is at 0 s.
        rate: Rows per second.
        repeat_start: Start of each repeat of a movie of 30 s in seconds, (R,).

    Returns:
        Numbers by name: the share of the variance of z-scored bins in the first components; quantiles of the
        correlations of pairs; how long the movie's signal and the population's mean last; which share of a
        neuron's variance is signal; mean and spread over pairs of signal covariances and noise
        correlations. Signal, and the spread of noise, come from odd against even repeats, and so without
        the bias of finite repeats.

    Example:
        >>> traces = np.random.default_rng(0).standard_normal((30 * 120, 9))
        >>> found = measure_population(traces, 30.0, np.array([0.0, 30.0, 60.0, 90.0]))
        >>> found["variance in 1 component"] < 0.2
        True
    """
    width = round(rate * BIN_SECONDS)
    n = traces.shape[1]
    binned = traces[: len(traces) // width * width].reshape(-1, width, n).mean(axis=1)
    z = (binned - binned.mean(axis=0)) / binned.std(axis=0)
    correlation = z.T @ z / len(z)
    pairs = np.triu_indices(n, 1)
    shares = np.cumsum(np.linalg.eigvalsh(correlation)[::-1]) / n
    found = {f"variance in {k} component{'s' * (k > 1)}": shares[k - 1] for k in COMPONENTS if k <= n}
    for q in (5, 50, 95):
        found[f"pairwise correlation, {q} %"] = np.quantile(correlation[pairs], q / 100)
    found |= _signal_and_noise(traces, rate, width, repeat_start)
    mean = z.mean(axis=1)
    mean = (mean - mean.mean()) / mean.std()
    for seconds in LAGS:
        lag = round(seconds / BIN_SECONDS)
        found[f"memory of the population's mean, {seconds} s"] = (mean[lag:] * mean[:-lag]).mean()
    return {name: float(value) for name, value in found.items()}


def _signal_and_noise(traces: np.ndarray, rate: float, width: int, repeat_start: np.ndarray) -> dict[str, float]:
    n, bins = traces.shape[1], round(30 / BIN_SECONDS)
    first = np.round(repeat_start * rate).astype(int)
    response = np.stack([traces[i : i + bins * width].reshape(bins, width, n).mean(axis=1) for i in first])
    response = (response - response.mean(axis=(0, 1))) / response.std(axis=(0, 1))
    pairs = np.triu_indices(n, 1)
    means, noises = [], []
    for half in (response[::2], response[1::2]):
        means.append(half.mean(axis=0) - half.mean(axis=(0, 1)))
        rest = (half - half.mean(axis=0)).reshape(-1, n)
        noises.append(np.corrcoef(rest.T)[pairs])
    signal = means[0].T @ means[1] / bins
    signal = (signal + signal.T) / 2
    noise = (noises[0] + noises[1]) / 2
    both = (means[0] * means[1]).mean()
    return {
        **{f"memory of the signal, {k} bins": (means[0][k:] * means[1][:-k]).mean() / both for k in SIGNAL_LAGS},
        **{f"signal share of a neuron, {q} %": np.quantile(np.diag(signal), q / 100) for q in (25, 50, 75, 95)},
        "signal covariance, mean": signal[pairs].mean(),
        "signal covariance, spread": signal[pairs].std(),
        "noise correlation, mean": noise.mean(),
        "noise correlation, spread": np.sqrt(max(np.cov(noises)[0, 1], 0.0)),
        "signal with noise correlation": np.corrcoef(signal[pairs], noise)[0, 1],
    }
