"""Spikes as traces: counts in bins, for models that read regular samples."""

from __future__ import annotations

import math

import numpy as np

from poyo_ssl_plugin.compat import Data, regular_series
from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.recordings import SPIKES, clone, open_signal, recording_id


class CountSpikes:
    """Give a window ``calcium_traces`` that are its spikes, counted in bins from its start.

    So :class:`~poyo_ssl_plugin.CalciumPOYO` and every transform of traces take spikes. Use it after neurons were
    selected by ``field="spikes"``, and before :class:`~poyo_ssl_plugin.data.StandardizeTraces` with a table
    that was scored on spikes with the same bin width. A last part shorter than a bin is left out.

    Args:
        bin_width: Width of a bin in seconds.

    Raises:
        RecordingError: If the width is not positive; when called, if the window has no spikes or no whole bin.

    Example:
        >>> from poyo_ssl_plugin.compat import ArrayDict, Interval, IrregularTimeSeries
        >>> spikes = IrregularTimeSeries(
        ...     timestamps=np.array([0.05, 0.12, 0.13]), unit_index=np.array([0, 1, 1]), domain=Interval(0.0, 0.3)
        ... )
        >>> data = Data(domain=Interval(0.0, 0.3), spikes=spikes, units=ArrayDict(id=np.array(["a", "b"])))
        >>> CountSpikes(bin_width=0.1)(data).calcium_traces.df_over_f.tolist()
        [[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    """

    def __init__(self, bin_width: float = 0.1) -> None:
        if not bin_width > 0:
            raise RecordingError(f"bin_width must be a positive number of seconds, not {bin_width}")
        self.bin_width = bin_width

    def __call__(self, data: Data) -> Data:
        signal = open_signal(data, SPIKES, bin_width=self.bin_width)
        length = float(data.domain.end[-1])
        n_bins = math.floor(length / self.bin_width + 1e-6)
        if n_bins == 0:
            raise RecordingError(
                f"recording {recording_id(data)}: a window of {length:g} s holds no bin of {self.bin_width:g} s"
            )
        counts = np.concatenate(list(signal.blocks(np.array([[0.0, n_bins * self.bin_width]]))))
        data.calcium_traces = regular_series(
            sampling_rate=1 / self.bin_width, start=0.0, df_over_f=counts.astype(np.float32)
        )
        # The neurons of traces are looked for in rois first.
        data.rois = clone(data.units)
        return data
