"""Transforms that keep only the neurons of a diet, whether they are ``rois`` or ``units``."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from poyo_ssl_plugin.compat import ArrayDict, Data, TriangleDistribution
from poyo_ssl_plugin.data.windows import window_generator
from poyo_ssl_plugin.errors import DietError, TableError
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
from poyo_ssl_plugin.recordings import SPIKES, TRACES, clone, neuron_groups, recording_id, unique_ids, unit_ids

logger = logging.getLogger(__name__)


def keep_units(data: Data, keep: np.ndarray, field: str = TRACES, *, reset_index: bool = True) -> Data:
    """Keep some neurons of a sample: their traces, their spikes, and their rows in ``rois`` and ``units``.

    Args:
        data: A recording or a window; changed in place.
        keep: Boolean (N,), in the order of the neurons of ``field``.
        field: The activity whose neurons these are. A table or time series of as many neurons
            with the same ids is cut too; one of other neurons is left alone.
        reset_index: Cut the tables and renumber ``unit_index``. ``False`` removes spikes only and
            leaves tables as they are, as torch_brain's ``UnitDropout`` does.

    Returns:
        ``data``.

    Example:
        >>> from poyo_ssl_plugin.data.importing import recording_from_arrays
        >>> traces = np.zeros((100, 3))
        >>> data = recording_from_arrays(traces, recording="mouse1", sampling_rate=10.0, unit_ids=["a", "b", "c"])
        >>> data = keep_units(data, np.array([True, False, True]))
        >>> data.rois.id.tolist(), data.calcium_traces.df_over_f.shape
        (['mouse1/a', 'mouse1/c'], (100, 2))
    """
    ids = unit_ids(data, field)
    groups = neuron_groups(data, field)
    described = [name for name in groups if _describes(getattr(data, name), ids)]
    for series in {"calcium_traces", SPIKES, field.partition(".")[0]} & data.__dict__.keys():
        if neuron_groups(data, series)[0] in described:
            _cut_series(data, series, keep, reset_index)
    if reset_index:
        kept_ids = ids[keep]
        for name in described:
            _cut_table(data, name, keep, kept_ids)
    return data


def _describes(table: ArrayDict, ids: np.ndarray) -> bool:
    own = table.id
    return own is ids or (len(own) == len(ids) and bool((np.asarray(own).astype(str) == ids).all()))


def _cut_table(data: Data, name: str, keep: np.ndarray, kept_ids: np.ndarray) -> None:
    table = getattr(data, name)
    if type(table) is not ArrayDict:
        setattr(data, name, table.select_by_mask(keep))
        return
    columns = {key: getattr(table, key)[keep] for key in table.keys() if key != "id"}
    data.__dict__[name] = clone(table, id=kept_ids, **columns)


def _cut_series(data: Data, name: str, keep: np.ndarray, reset_index: bool) -> None:
    series = getattr(data, name)
    keys = series.keys()
    if "unit_index" in keys:
        # A lazy series stops being lazy once its last array is read, so this comes before the method is looked up.
        unit_index = np.asarray(series.unit_index)
        series = series.select_by_mask(keep[unit_index])
        if reset_index:
            series.unit_index = (np.cumsum(keep) - 1)[series.unit_index]
        setattr(data, name, series)
        return
    for key in keys:
        samples = getattr(series, key)
        if samples.ndim >= 2 and samples.shape[1] == len(keep):
            # The number of rows, which torch_brain would check, stays.
            series.__dict__[key] = samples[:, keep]


class SelectUnits:
    """Keep the neurons of a diet, and only these.

    On a window of a curriculum it keeps the open share of the diet.

    Args:
        diet: The diet, or ``None`` for all neurons.
        field: The activity whose neurons are selected; by default traces where there are any, else
            spikes.

    Raises:
        DietError: When called on a recording that was not scored, or of which the diet has nothing.

    Example:
        >>> import numpy as np
        >>> from poyo_ssl_plugin.compat import ArrayDict, Data, Interval, regular_series
        >>> from poyo_ssl_plugin.predictability import PredictabilityTable
        >>> table = PredictabilityTable.from_rows(
        ...     [dict(recording_id="a", unit_id=str(i), skewness=3 * i, kurtosis=0) for i in range(3)]
        ... )
        >>> data = Data(
        ...     domain=Interval(0.0, 1.0), session=Data(id="a"), rois=ArrayDict(id=["0", "1", "2"]),
        ...     calcium_traces=regular_series(sampling_rate=30.0, start=0.0, df_over_f=np.zeros((30, 3))),
        ... )
        >>> data = SelectUnits(Diet.from_thresholds(table))(data)
        >>> data.rois.id.tolist(), data.calcium_traces.df_over_f.shape
        (['0', '1'], (30, 2))
    """

    def __init__(self, diet: Diet | None, field: str | None = None) -> None:
        self.diet = diet
        self.field = field
        self._known: dict[str, tuple[np.ndarray, float, np.ndarray]] = {}

    def __call__(self, data: Data) -> Data:
        field = self.field or activity_field(data)
        return keep_units(data, self._members(data, field), field)

    def _members(self, data: Data, field: str) -> np.ndarray:
        fraction = getattr(data, "window_diet_fraction", 1.0)
        recording, ids = recording_id(data), unit_ids(data, field)
        if self.diet is None:
            return np.ones(len(ids), bool)
        # Windows of a recording share one array of ids; looking all of them up takes as long as reading.
        known = self._known.get(recording)
        if known is not None and known[0] is ids and known[1] == fraction:
            return known[2]
        members = self.diet.mask(recording, ids, fraction=fraction)
        if not members.any():
            raise DietError(
                f"recording {recording}: diet {self.diet.name!r} has none of its neurons; sample only "
                "recordings that the diet feeds (PredictabilitySampler does, or give the dataset recording_ids)"
            )
        self._known[recording] = ids, fraction, members
        return members

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_known": {}}


class DietUnitDropout(SelectUnits):
    """Keep a random part of the diet's neurons: torch_brain's ``UnitDropout``, on a diet.

    How many are kept is drawn from torch_brain's ``TriangleDistribution``, as ``UnitDropout`` does.

    Args:
        diet: The diet, or ``None`` for all neurons.
        field: As :class:`SelectUnits`.
        reset_index: As ``UnitDropout``: cut the tables of neurons and renumber spikes.
        **distribution: ``min_units``, ``mode_units``, ``max_units``, ``tail_right``, ``peak``, ``M``,
            ``max_attempts``, ``seed``, as ``UnitDropout``. With :class:`Recordings` and the samplers
            of this package the draw of a window follows from the window's own seed.

    Raises:
        DietError: If ``UnitDropout`` does not have an argument; when called, as :class:`SelectUnits`.

    Example:
        >>> import tempfile
        >>> from poyo_ssl_plugin import Recordings
        >>> from poyo_ssl_plugin.simulation import simulate
        >>> dataset = Recordings(simulate(tempfile.mkdtemp(), n_recordings=1, n_units=20, minutes=4))
        >>> drop = DietUnitDropout(min_units=5, mode_units=8, max_units=10)
        >>> 5 <= len(drop(dataset.get_recording("sim_000").slice(0.0, 1.0)).rois.id) <= 10
        True
    """

    def __init__(
        self, diet: Diet | None = None, field: str | None = None, reset_index: bool = True, **distribution: Any
    ) -> None:
        super().__init__(diet, field)
        self.reset_index = reset_index
        try:
            self.distribution = TriangleDistribution(**distribution)
        except TypeError as error:
            raise DietError(
                f"DietUnitDropout takes what UnitDropout takes ({error}); where a configuration's transform is "
                "another, such as Compose, list SelectUnits among its transforms instead"
            ) from None

    def __call__(self, data: Data) -> Data:
        field = self.field or activity_field(data)
        keep = self._members(data, field)
        members = np.flatnonzero(keep)
        generator = window_generator(data)
        if getattr(data, "window_seed", None) is not None:
            self.distribution.rng = generator
        n = int(self.distribution.sample(len(members)))
        dropped = generator.permutation(members)[n:]
        keep = keep.copy()
        keep[dropped] = False
        return keep_units(data, keep, field, reset_index=self.reset_index)


class StandardizeTraces:
    """Give every trace mean 0 and standard deviation 1, by the statistics of the scored split.

    Args:
        table: Where the means and standard deviations come from.
        field: The traces.

    Raises:
        TableError: When called on a neuron that the table does not hold.

    Example:
        >>> import numpy as np
        >>> from poyo_ssl_plugin.compat import ArrayDict, Data, Interval, regular_series
        >>> row = dict(recording_id="a", unit_id="0", mean=2.0, std=0.5, skewness=0.0, kurtosis=0.0)
        >>> traces = regular_series(sampling_rate=30.0, start=0.0, df_over_f=np.full((3, 1), 3.0))
        >>> data = Data(
        ...     domain=Interval(0.0, 0.1), session=Data(id="a"), rois=ArrayDict(id=["0"]), calcium_traces=traces
        ... )
        >>> standardize = StandardizeTraces(PredictabilityTable.from_rows([row]))
        >>> standardize(data).calcium_traces.df_over_f[:, 0].tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, table: PredictabilityTable, field: str = TRACES) -> None:
        self.field = field
        self._group, _, self._array = field.partition(".")
        if not self._array:
            raise TableError(f"only traces can be standardized, and {field!r} are spike times")
        self._by_recording = {}
        means = np.nan_to_num(table["mean"])
        stds = np.nan_to_num(np.where(table["std"] > 0, table["std"], 1.0), nan=1.0)
        for recording, rows in table.by_recording().items():
            mean, std, own = means[rows], stds[rows], table["unit_id"][rows]
            row_of = {unit: row for ids in (own, unique_ids(own, recording)) for row, unit in enumerate(ids.tolist())}
            self._by_recording[recording] = row_of, mean.astype(np.float32), std.astype(np.float32)

    def __call__(self, data: Data) -> Data:
        recording = recording_id(data)
        if recording not in self._by_recording:
            raise TableError(f"recording {recording!r} is not in the table; score the dataset again")
        row_of, mean, std = self._by_recording[recording]
        try:
            rows = np.fromiter(map(row_of.__getitem__, unit_ids(data, self.field).tolist()), dtype=np.intp)
        except KeyError as error:
            unknown = str(error.args[0])
            raise TableError(f"unit {unknown!r} of recording {recording!r} is not in the table; score again") from None
        series = getattr(data, self._group)
        samples = getattr(series, self._array)
        scaled = (samples - mean[rows]) / std[rows]
        # A sample that is missing (NaN) is taken to be the neuron's mean.
        scaled = np.nan_to_num(
            scaled.astype(np.float32, copy=False), copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf
        )
        series.__dict__[self._array] = scaled
        return data


def activity_field(data: Data) -> str:
    """Traces where a recording has any, else spikes."""
    return TRACES if TRACES.split(".")[0] in data.keys() else SPIKES
