"""Options for accelerators: mixed precision runs here on the CPU, the rest where there is a GPU."""

from __future__ import annotations

import pytest
import torch

from benchmarks import batching
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.training import pretrain

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def recipe(sim_dir, table_path, out, *overrides):
    common = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={out}", "model=tiny", "data.batch_size=4"]
    short = ["trainer.max_steps=2", "trainer.val_every_n_steps=2", "trainer.progress=false"]
    return compose_recipe("pretrain", overrides=[*common, *short, *overrides])


def on_gpu(inputs):
    return {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def test_bf16_autocast_trains_on_the_cpu(sim_dir, table_path, tmp_path):
    overrides = ["trainer.accelerator=cpu", "trainer.precision=bf16-mixed"]
    result = pretrain(recipe(sim_dir, table_path, tmp_path, *overrides))
    assert result.metrics["train/loss"] == result.metrics["train/loss"]


@needs_gpu
def test_bf16_autocast_trains_on_a_gpu_with_pinned_batches(sim_dir, table_path, tmp_path):
    overrides = ["trainer.accelerator=gpu", "trainer.precision=bf16-mixed", "data.num_workers=2"]
    result = pretrain(recipe(sim_dir, table_path, tmp_path, *overrides))
    assert result.metrics["train/loss"] == result.metrics["train/loss"]


@needs_gpu
def test_a_gpu_gives_what_the_cpu_gives():
    torch.manual_seed(0)
    model = batching.make("small").eval()
    inputs, _ = batching.batch(model.patch_size, 4, seed=0)
    expected = model(**inputs)
    torch.testing.assert_close(model.cuda()(**on_gpu(inputs)).cpu(), expected, rtol=1e-3, atol=1e-4)


@needs_gpu
def test_xformers_and_our_attention_agree():
    pytest.importorskip("xformers", reason="xformers is not installed (pip install 'poyo-ssl-plugin[cuda]')")
    torch.manual_seed(0)
    model = batching.make("paper").eval().cuda()
    inputs = on_gpu(batching.batch(model.patch_size, 4, seed=0)[0])
    ours = model(**inputs)
    # torch_brain's attention takes xformers on a GPU.
    torch.testing.assert_close(batching.with_stock_attention(model)(**inputs), ours, rtol=1e-3, atol=1e-4)
