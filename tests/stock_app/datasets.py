"""The user's datasets, on torch_brain's public classes."""

from pathlib import Path

import numpy as np
import torch

try:
    from torch_brain.batching import pad, track_mask
    from torch_brain.datasets import CalciumImagingDatasetMixin, Dataset, SpikingDatasetMixin
except ImportError:  # torch_brain 0.1
    from torch_brain.data import pad, track_mask
    from torch_brain.dataset import CalciumImagingDatasetMixin, Dataset, SpikingDatasetMixin


class _Gratings(Dataset):
    dim_target = 2

    def __init__(self, root, dirname, recording_ids=None, transform=None):
        super().__init__(Path(root) / dirname, recording_ids=recording_ids, transform=transform)

    def get_sampling_intervals(self, split=None):
        name = "domain" if split is None else f"{split}_domain"
        return {rid: getattr(self.get_recording(rid), name) for rid in self.recording_ids}


class SpikingGratings(SpikingDatasetMixin, _Gratings):
    pass


class CalciumGratings(CalciumImagingDatasetMixin, _Gratings):
    pass


class WithTargets(torch.utils.data.Dataset):
    """Windows as pairs of the model's inputs and the direction shown at regular times (0, 0 for none)."""

    def __init__(self, dataset, tokenizer):
        self.dataset = dataset
        self.tokenizer = tokenizer

    def __getattr__(self, key):
        return getattr(self.dataset, key)

    def __getitem__(self, index):
        data = self.dataset[index]
        times = np.arange(0.05, index.end - index.start, 0.2)
        values = np.zeros((len(times), 2))
        shown = data.drifting_gratings
        for start, end, angle in zip(shown.start, shown.end, np.deg2rad(shown.orientation)):
            if np.isfinite(angle):
                values[(times >= start) & (times < end)] = np.cos(angle), np.sin(angle)
        targets = {
            "timestamps": pad(times.astype(np.float32)),
            "values": pad(values.astype(np.float32)),
            "output_mask": track_mask(times),
        }
        return self.tokenizer(data), targets
