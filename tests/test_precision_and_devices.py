"""Options for accelerators: mixed precision runs here on the CPU, the rest where there is a GPU."""

from __future__ import annotations

import pytest
import torch
from quick import quick

from benchmarks import batching
from poyo_ssl_plugin.training import pretrain

QUICK = quick(steps=2, batch_size=4)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def on_gpu(inputs):
    return {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def test_bf16_autocast_trains_on_the_cpu(recipe):
    result = pretrain(recipe("pretrain", "trainer.precision=bf16-mixed"))
    assert result.metrics["train/loss"] == result.metrics["train/loss"]


@needs_gpu
def test_bf16_autocast_trains_on_a_gpu_with_pinned_batches(recipe):
    overrides = ["trainer.accelerator=gpu", "trainer.precision=bf16-mixed", "data.num_workers=2"]
    result = pretrain(recipe("pretrain", *overrides))
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
