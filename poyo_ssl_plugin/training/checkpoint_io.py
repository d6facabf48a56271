"""How checkpoints reach the disk, whole, and come back, unexecuted."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from poyo_ssl_plugin.files import atomic_path
from poyo_ssl_plugin.models import read_checkpoint
from poyo_ssl_plugin.plain import State


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, replaced in one step and read without unpickling.

    A process that is killed while it saves leaves the earlier checkpoint. So does a full disk, which
    is an :class:`~poyo_ssl_plugin.errors.OutputError`.
    """

    def save_checkpoint(self, checkpoint: State, path: str | Path, storage_options: object = None) -> None:
        # torch reports a full disk as a RuntimeError without a reason; writing bytes reports it as it is.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with atomic_path(path) as temporary:
            temporary.write_bytes(buffer.getbuffer())

    def load_checkpoint(
        self, path: str | Path, map_location: object = "cpu", weights_only: bool | None = True
    ) -> State:
        return read_checkpoint(path)
