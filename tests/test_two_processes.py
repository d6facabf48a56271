"""Two processes on gloo train as one does on the same global batch, and a run of theirs resumes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import together
import torch
from left_behind import assert_equal, log, state
from torch.distributed.launcher import LaunchConfig, elastic_launch
from torch.utils.data import RandomSampler

from poyo_ssl_plugin.distributed import ShardedSampler
from poyo_ssl_plugin.training import read_checkpoint
from poyo_ssl_plugin.training.resume import ResumableLoader

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="torch without gloo"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def processes(forkserver, sim_dir, table_path, folder) -> list[dict[str, Any]]:
    """What each of two processes saw that torchrun's launcher started, from one that has imported everything."""
    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in signals}
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, start_method="forkserver", max_restarts=0,
        rdzv_backend="c10d", rdzv_endpoint="localhost:0",
    )  # fmt: skip
    try:
        elastic_launch(config, together.main)(sim_dir, table_path, folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return [torch.load(folder / f"process{i}.pt", weights_only=False) for i in range(2)]


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 14])
def test_shares_are_the_sampler_without_overlap_or_loss(n, n_shards):
    shares = [ShardedSampler(range(n), n_shards=n_shards, index=i) for i in range(n_shards)]
    lists = [list(share) for share in shares]
    assert all(len(share) == len(of) for share, of in zip(shares, lists, strict=True))
    together_ = [of[k] for k in range(len(lists[0])) for of in lists]
    # In the sampler's order, then as many of its first again as it takes to come out even.
    assert together_[:n] == list(range(n)) and len(together_) - n < n_shards
    assert together_[n:] == [k % n for k in range(len(together_) - n)]


@pytest.mark.parametrize("how", ["wrapped", "own"])
def test_samplers_are_split_without_overlap_or_loss(processes, how):
    epochs = list(zip(*(process["sampled"][how] for process in processes), strict=True))
    assert len(epochs) == 2 and epochs[0] != epochs[1]
    for one, two in epochs:
        assert len(one) == len(two) == 75
        assert len({*one, *two}) == 150


@pytest.mark.parametrize("what", ["finetune", *together.OBJECTIVES])
def test_the_gradient_is_that_of_one_process_on_the_same_batch(what, processes, sim_dir, table_path, tmp_path):
    alone = together.gradients(what, sim_dir, table_path, tmp_path)
    shares = [process[what] for process in processes]
    for step, windows in enumerate(alone.windows):
        assert sorted(shares[0]["windows"][step] + shares[1]["windows"][step]) == sorted(windows)
        assert len(shares[0]["windows"][step]) == together.GLOBAL_BATCH // 2
    for step, gradients in enumerate(alone.gradients):
        scale = max(float(gradient.abs().max()) for gradient in gradients.values())
        for share in shares:
            assert share["gradients"][step].keys() == gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    share["gradients"][step][name], gradient, rtol=2e-3, atol=2e-5 * scale, msg=f"step {step}: {name}"
                )


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_run_of_two_goes_on_bit_for_bit(command, processes, folder):
    for process in processes:
        whole, resumed = (process[f"run {command}"][name] for name in ("whole", "resumed"))
        assert whole == resumed
    places = [folder / f"{command}_{name}" for name in ("whole", "resumed")]
    one, two = (state(place / "checkpoints" / "last.ckpt") for place in places)
    assert_equal(one, two)
    assert one["/global_step"] == 6
    logs = [log(place) for place in places]
    assert logs[0] == logs[1] and len(logs[0]) > 6
    # One process wrote for both.
    assert {path.name for path in (folder / f"{command}_whole").glob("*.json")} == {"run.json"}


def test_all_stop_when_one_is_told_to(processes, folder):
    steps = {process["told to stop"] for process in processes}
    assert len(steps) == 1
    assert read_checkpoint(folder / "stopped" / "checkpoints" / "last.ckpt")["global_step"] == steps.pop() < 40


def test_another_number_of_processes_goes_on_at_the_same_window():
    numbers = torch.arange(24)

    def loader(n_shards: int) -> ResumableLoader:
        sampler = RandomSampler(numbers, generator=torch.Generator().manual_seed(1))
        return ResumableLoader(numbers, sampler=ShardedSampler(sampler, n_shards=n_shards, index=0), batch_size=2)

    order = torch.cat(list(loader(1))).tolist()
    of_two = loader(2)
    batches = iter(of_two)
    assert [next(batches).tolist() for _ in range(2)] == [order[0:4:2], order[4:8:2]]
    of_one = loader(1)
    of_one.load_state_dict(of_two.state_dict())
    assert next(iter(of_one)).tolist() == order[8:10]
