"""Attention without padding: every kernel against a dense block-diagonal mask, and the model against padding."""

from __future__ import annotations

import pytest
import torch
from tiny import PAPER

from benchmarks import batching
from poyo_ssl_plugin import CalciumPOYO, doctor
from poyo_ssl_plugin.models.packed_attention import KERNELS, _works, neurons_without_padding, packed_by, packed_kernel

LENGTHS = [4, 7, 1]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")


def block_diagonal(n_queries: int, lengths: list[int]) -> torch.Tensor:
    """The mask that no kernel makes: (B * N_q, sum of lengths), true where a query may look."""
    window_of_query = torch.arange(len(lengths)).repeat_interleave(n_queries)
    window_of_key = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    return window_of_query[:, None] == window_of_key


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Softmax attention of all queries to all keys under the mask, in double precision."""
    n_windows, n_queries = query.shape[:2]
    query, key, value = query.flatten(0, 1).double(), key.double(), value.double()
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~block_diagonal(n_queries, lengths).to(scores.device), -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1), value).unflatten(0, (n_windows, n_queries))


def parts(device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((len(LENGTHS), 5, 2, 32), (sum(LENGTHS), 2, 32), (sum(LENGTHS), 2, 32))
    return [torch.randn(size, generator=generator).to(device).requires_grad_() for size in sizes]


def skip_without_xformers(kernel: str, device: str) -> None:
    """The kernels of torch must work everywhere; that of xformers where it is installed for the device."""
    if kernel == "xformers" and not _works(KERNELS[kernel], device):
        pytest.skip(f"xformers has no kernel for {device} here")


def assert_same_as_the_reference(kernel: str, device: str = "cpu") -> None:
    ours, theirs = parts(device), parts(device)
    found, expected = KERNELS[kernel](*ours, LENGTHS, 0.0), reference(*theirs, LENGTHS)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    found.square().sum().backward()
    expected.square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernel", ["split", "nested"])
def test_kernels_of_torch_give_what_the_mask_does(kernel):
    assert_same_as_the_reference(kernel)


@needs_gpu
@pytest.mark.parametrize("kernel", ["nested", "xformers"])
def test_kernels_of_a_gpu_give_what_the_mask_does(kernel):
    skip_without_xformers(kernel, "cuda")
    assert_same_as_the_reference(kernel, "cuda")


def test_the_mask_of_xformers_is_the_mask():
    biases = pytest.importorskip("xformers.ops.fmha.attn_bias", reason="xformers is not installed (make test-masks)")
    mask = biases.BlockDiagonalMask.from_seqlens([5] * len(LENGTHS), LENGTHS)
    bias = mask.materialize((5 * len(LENGTHS), sum(LENGTHS)))
    torch.testing.assert_close(bias == 0, block_diagonal(5, LENGTHS))
    assert (bias[~block_diagonal(5, LENGTHS)] == -torch.inf).all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("kernel", ["split", "nested", "xformers"])
def test_a_model_gives_what_it_does_with_padding_and_a_mask(kernel, device):
    skip_without_xformers(kernel, device)
    torch.manual_seed(0)
    size = {"latent_step": 0.5, "num_latents_per_step": 4, "dim": 32, "dim_head": 16, "depth": 1, "patch_size": 10}
    model = CalciumPOYO(sequence_length=2.0, dim_out=8, **size, **PAPER)
    model.set_vocabs(unit_ids=[f"u{i}" for i in range(batching.N_NEURONS)], session_ids=["s"])
    model.eval().to(device)
    inputs = {name: value.to(device) for name, value in batching.batch(10, 5, seed=1)[0].items()}
    outcomes = []
    for used in (kernel, None):
        model.zero_grad()
        with packed_by(used):
            counts = neurons_without_padding(inputs["input_mask"])
            output = model(**inputs)
        assert (counts is None) == (used is None)
        output.square().sum().backward()
        outcomes.append((output, {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(outcomes[0][0], outcomes[1][0])
    for name, gradient in outcomes[0][1].items():
        torch.testing.assert_close(gradient, outcomes[1][1][name], rtol=1e-4, atol=1e-5)


def test_padding_of_patches_or_none_at_all_is_not_packed():
    count = neurons_without_padding
    mask = torch.ones(2, 3, 4, dtype=torch.bool)
    assert count(mask) is None and count(None) is None
    mask[0, 2] = False
    assert count(mask) == [2, 3]
    mask[1, 0, 3] = False
    assert count(mask) is None


def test_kernels_are_chosen_by_trying():
    def broken(*_: object) -> torch.Tensor:
        raise NotImplementedError("No operator found")

    assert packed_kernel("cpu") == "split" and packed_kernel("mps") is None
    assert not _works(broken, "cpu")
    with torch.inference_mode():
        assert _works(KERNELS["nested"], "cpu")


def test_the_doctor_says_which_is_used():
    said = {finding.what: finding for finding in doctor.diagnose()}
    assert said["batches without padding"].found
    assert doctor._packing("xformers").remedy == ""
    assert "torch nested tensors" in doctor._packing("nested").found and doctor._packing("nested").remedy
    assert "padded" in doctor._packing(None).found
