"""A tiny model and windows for it, for tests of models and objectives."""

from __future__ import annotations

import torch

from poyo_ssl_plugin import CalciumPOYO

SIZE = {"sequence_length": 2.0, "latent_step": 0.5, "num_latents_per_step": 4, "dim": 32, "dim_head": 16, "depth": 2}
PAPER = {"encoder": "attention", "readout": "linear", "layer_scale": None, "emb_init_scale": 0.3}


def model(**options) -> CalciumPOYO:
    """The same weights for the same options; six neurons, two recordings, in evaluation mode."""
    torch.manual_seed(0)
    made = CalciumPOYO(**{**SIZE, "dim_out": 8, "patch_size": 10, **options})
    made.set_vocabs(unit_ids=[f"u{i}" for i in range(6)], session_ids=["s", "t"])
    return made.eval()


def inputs(n_windows: int = 3, n_units: int = 4, n_patches: int = 6, patch: int = 10) -> dict:
    """Noise, asked twice a window."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_values": torch.randn(n_windows, n_units, n_patches, patch, generator=generator),
        "input_unit_index": torch.arange(1, n_units + 1).repeat(n_windows, 1),
        "input_timestamps": (torch.arange(n_patches) + 0.5).repeat(n_windows, 1) / 3,
        "input_mask": torch.ones(n_windows, n_units, n_patches, dtype=torch.bool),
        "session_index": torch.ones(n_windows, dtype=torch.long),
        "output_timestamps": torch.tensor([[0.5, 1.5]]).repeat(n_windows, 1),
    }


def structured(n_windows: int, seed: int) -> dict:
    """Three slow sources seen by six neurons, with noise: something to reconstruct."""
    mixing = torch.randn(3, 6, 1, 1, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    slow = torch.randn(n_windows, 3, 1, 6, 1, generator=generator).cumsum(dim=3)
    values = (slow * mixing).sum(dim=1) + 0.5 * torch.randn(n_windows, 6, 6, 10, generator=generator)
    return {**inputs(n_windows, 6), "input_values": values}
