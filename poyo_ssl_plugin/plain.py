"""The plain values that parts hand to each other, one name for each kind.

They have no class of their own because others decide what is in them: YAML and JSON, Lightning's checkpoints,
torch_brain's ``collate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

if TYPE_CHECKING:
    import torch

# Values by key, nested as YAML and JSON nest them: a section of a recipe, of a record or of a result.
Values: TypeAlias = dict[str, Any]
# The same where it is only read.
ReadOnlyValues: TypeAlias = Mapping[str, Any]
# What Lightning saves and loads: a whole checkpoint, or the part of one object in it.
State: TypeAlias = dict[str, Any]
# Arguments of a model's forward by name, mostly tensors.
ModelInputs: TypeAlias = dict[str, Any]


class Batch(TypedDict):
    """Windows of one step, as ``collate_windows`` stacks them; B windows of at most Q queries.

    Attributes:
        inputs: Arguments of the model's ``forward``.
        target: Class (B, Q) or values (B, Q, D) of every query; padding holds what losses ignore.
        asked: (B, Q), false where there is only padding.
        recording_id: The recording of each window.
        start: Where each window begins in it (B,), s.
    """

    inputs: ModelInputs
    target: torch.Tensor
    asked: torch.Tensor
    recording_id: list[str]
    start: torch.Tensor
