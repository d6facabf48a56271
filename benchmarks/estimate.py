"""What the paper's full dataset takes: rates measured here, times the paper's numbers.

python -m benchmarks.estimate
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import batching, loading
from benchmarks.harness import PeakMemory, Settings, race
from benchmarks.recordings import allen_size
from poyo_ssl_plugin import MaskedLatentReconstruction, Recordings, score_dataset
from poyo_ssl_plugin.models.flops import measure_cost

# The paper's data and recipe (section 4 and its appendix): windows per epoch, epochs, and the windows of a batch.
RECORDINGS = 433
STAGES = {"pretraining": (80_000, 50), "fine-tuning": (1_170_000, 25)}
BATCH = {"small": 32, "paper": 8}
HOUR = 3600.0
GIGA = 1e9


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keeps the simulated recording for another time")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    settings = Settings(arguments.folder or Path(tempfile.mkdtemp()), arguments.quick)
    torch.set_num_threads(1)
    folder = allen_size(settings)
    dataset = Recordings(folder)
    seconds = race({"": lambda: score_dataset(dataset, workers=1)}, 5, clock=time.process_time)[""]
    print(f"scoring: {seconds:.2f} s a recording, {RECORDINGS * seconds:.0f} s for {RECORDINGS} recordings")
    windows, ours = _windows(folder)
    n = settings.pick(512, 64)
    seconds = race({"": lambda: loading.load_batches(ours, windows[:n])}, 3, clock=time.process_time)[""]
    print(f"loading: {n / seconds:,.0f} windows/s")
    print(f"{'model':<8} {'stage':<12} {'windows/s':>10} {'GFLOP/window':>13} {'memory':>9} {'core hours':>11}")
    for name in settings.pick(("small", "paper"), ("small",)):
        for stage, (n_windows, epochs) in STAGES.items():
            # A process of its own each, so that memory kept from an earlier one is not missed.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                rate, flops, memory = pool.apply(measure, (name, stage, settings.pick(3, 1)))
            hours = n_windows * epochs / rate / HOUR
            print(
                f"{name:<8} {stage:<12} {rate:>10.1f} {flops / GIGA:>13.2f} {memory / 2**20:>6.0f} MB {hours:>11,.0f}",
                flush=True,
            )


def _windows(folder: Path) -> tuple[list[Any], Recordings]:
    _, standardized, _, windows = loading.loaders(folder)
    return windows, standardized


def measure(name: str, stage: str, rounds: int) -> tuple[float, float, int]:
    """Windows per second of processor time, operations to train on a window, bytes that a step takes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, size = batching.make(name), BATCH[name]
    batches = [batching.batch(model.patch_size, size, seed) for seed in range(2)]
    cost = measure_cost(model, batches[0][0], size)
    step = batching.step(model, batches) if stage == "fine-tuning" else _pretraining_step(model, batches)
    with PeakMemory() as memory:
        step()
    seconds = race({"": step}, rounds, clock=time.process_time)[""]
    # Pretraining adds a pass of the processor for the masked branch, which the count leaves out.
    return len(batches) * size / seconds, cost.training_flops, memory.extra


def _pretraining_step(model: Any, batches: list[Any]) -> Callable[[], None]:
    objective = MaskedLatentReconstruction(model.latent_emb.embedding_dim)
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=1e-4)

    def run() -> None:
        for inputs, target in batches:
            optimizer.zero_grad()
            found = objective(model, inputs)
            (found.loss + F.cross_entropy(found.latent_pass.output[:, 0], target)).backward()
            optimizer.step()

    return run


if __name__ == "__main__":
    main()
