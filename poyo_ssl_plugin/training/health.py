"""Latent health over a validation set: collected batch by batch, said once per validation."""

from __future__ import annotations

import torch

from poyo_ssl_plugin.objectives import latent_health


class HealthMeter:
    """Collects the last latents of held-out windows, up to a bound, and measures them together.

    Args:
        max_windows: How many windows to keep; more would not change the numbers.
    """

    def __init__(self, max_windows: int = 256) -> None:
        self.max_windows = max_windows
        self._latents: list[torch.Tensor] = []

    def update(self, latents: torch.Tensor) -> None:
        """Add the latents (B, L, D) of a batch."""
        room = self.max_windows - sum(map(len, self._latents))
        if room > 0:
            self._latents.append(latents[:room].detach().float().cpu())

    def compute(self) -> dict[str, float]:
        """``latent_std`` and ``effective_rank`` of everything collected; then start anew."""
        if sum(map(len, self._latents)) < 2:
            return {}
        latents, self._latents = torch.cat(self._latents), []
        if not latents.isfinite().all():
            # Nothing to measure; what became of the numbers is the guard's to say.
            return {"latent_std": float("nan"), "effective_rank": float("nan")}
        health = latent_health(latents)
        return {name: float(value) for name, value in health.items()}
