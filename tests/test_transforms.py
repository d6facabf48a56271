from __future__ import annotations

import h5py
import numpy as np
import pytest
from scipy import stats
from torch_brain.transforms import UnitDropout, UnitFilter

from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compat import (
    ArrayDict,
    Data,
    DatasetIndex,
    Interval,
    IrregularTimeSeries,
    regular_series,
    write_recording,
)
from poyo_ssl_plugin.data import (
    CountSpikes,
    DietUnitDropout,
    Recordings,
    SelectUnits,
    StandardizeTraces,
    WindowIndex,
    keep_units,
)
from poyo_ssl_plugin.errors import DietError, TableError
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable
from poyo_ssl_plugin.recordings import open_signal, own_ids, unit_ids


@pytest.fixture
def diet(table) -> Diet:
    return Diet.from_thresholds(table)


def both_kinds(n: int = 6) -> Data:
    """A window with traces and spikes of the same neurons, in rois and units, and a pupil of n columns."""
    rng = np.random.default_rng(0)
    spikes = IrregularTimeSeries(
        timestamps=np.sort(rng.uniform(0, 1, 50)), unit_index=rng.integers(0, n, 50), domain=Interval(0.0, 1.0)
    )
    ids = np.array([f"u{i}" for i in range(n)])
    return Data(
        domain=Interval(0.0, 1.0),
        session=Data(id="a"),
        rois=ArrayDict(id=ids, xy=rng.uniform(size=(n, 2))),
        units=ArrayDict(id=ids),
        calcium_traces=regular_series(sampling_rate=30.0, start=0.0, df_over_f=rng.uniform(size=(30, n))),
        pupil=regular_series(sampling_rate=30.0, start=0.0, location=np.zeros((30, n))),
        spikes=spikes,
    )


class TestKeepUnits:
    keep = np.array([True, False, True, True, False, False])

    def test_traces_spikes_and_tables_stay_consistent(self):
        before, after = both_kinds(), keep_units(both_kinds(), self.keep)
        assert after.rois.id.tolist() == after.units.id.tolist() == ["u0", "u2", "u3"]
        np.testing.assert_array_equal(after.rois.xy, before.rois.xy[self.keep])
        np.testing.assert_array_equal(after.calcium_traces.df_over_f, before.calcium_traces.df_over_f[:, self.keep])
        kept = self.keep[before.spikes.unit_index]
        np.testing.assert_array_equal(after.spikes.timestamps, before.spikes.timestamps[kept])
        names = before.units.id[before.spikes.unit_index[kept]]
        assert after.units.id[after.spikes.unit_index].tolist() == names.tolist()
        assert after.pupil.location.shape == (30, 6)

    def test_other_neurons_are_left_alone(self):
        data = both_kinds()
        data.units = ArrayDict(id=np.array(["s1", "s2"]))
        data.spikes.unit_index = data.spikes.unit_index % 2
        keep_units(data, self.keep)
        assert data.units.id.tolist() == ["s1", "s2"] and len(data.spikes.timestamps) == 50
        assert data.rois.id.tolist() == ["u0", "u2", "u3"]

    def test_spikes_alone(self):
        data = both_kinds()
        data = Data(domain=data.domain, session=data.session, units=data.units, spikes=data.spikes)
        keep_units(data, self.keep, "spikes")
        assert data.units.id.tolist() == ["u0", "u2", "u3"] and set(data.spikes.unit_index) <= {0, 1, 2}


class TestSelectUnits:
    def test_keeps_the_diet_of_each_recording(self, sim_dir, diet):
        dataset = Recordings(sim_dir, transform=SelectUnits(diet))
        for name in dataset.recording_ids:
            window = dataset[DatasetIndex(name, 5.0, 6.0)]
            assert sorted(own_ids(window.rois.id, name).tolist()) == diet.units(name)
            assert window.calcium_traces.df_over_f.shape[1] == diet.count(name)

    def test_a_curriculum_window_keeps_the_open_share(self, sim_dir, table):
        everything = Diet.everything(table)
        dataset = Recordings(sim_dir, transform=SelectUnits(everything), fields=["calcium_traces"])
        sizes = [len(dataset[WindowIndex("sim_000", 5.0, 6.0, diet_fraction=f)].units) for f in (0.1, 0.4, 0.8, 1.0)]
        assert sizes == sorted(sizes) and sizes[0] >= 1 and sizes[-1] == 20

    def test_nothing_left_is_an_error(self, sim_dir, table):
        none = Diet(table, table["recording_id"] != "sim_000")
        with pytest.raises(DietError, match="sim_000.*has none of its neurons"):
            Recordings(sim_dir, transform=SelectUnits(none))[DatasetIndex("sim_000", 5.0, 6.0)]

    def test_on_spikes(self):
        rows = [dict(recording_id="a", unit_id=f"u{i}", skewness=i, kurtosis=0) for i in range(6)]
        diet = Diet.from_thresholds(PredictabilityTable.from_rows(rows))
        data = both_kinds()
        data = Data(domain=data.domain, session=data.session, units=data.units, spikes=data.spikes)
        assert SelectUnits(diet)(data).units.id.tolist() == ["u0", "u1", "u2", "u3"]


class TestDietUnitDropout:
    SIZES = {"min_units": 2, "mode_units": 4, "max_units": 12, "tail_right": 8}

    def draw(self, sim_dir, diet, seed=None, name="sim_000"):
        dataset = Recordings(sim_dir, transform=DietUnitDropout(diet, **self.SIZES), fields=["calcium_traces"])
        return dataset[WindowIndex(name, 5.0, 6.0, seed=seed)]

    def test_keeps_part_of_the_diet_only(self, sim_dir, diet):
        sizes = set()
        for seed in range(40):
            window = self.draw(sim_dir, diet, seed)
            kept = set(own_ids(window.rois.id, "sim_000").tolist())
            assert kept <= set(diet.units("sim_000")) and len(kept) >= 2
            assert window.calcium_traces.df_over_f.shape[1] == len(kept)
            sizes.add(len(kept))
        assert len(sizes) > 3

    def test_columns_are_those_of_the_ids(self, sim_dir, diet):
        window = self.draw(sim_dir, diet, 3)
        whole = Recordings(sim_dir)[DatasetIndex("sim_000", 5.0, 6.0)]
        columns = [whole.rois.id.tolist().index(unit) for unit in window.rois.id]
        np.testing.assert_array_equal(window.calcium_traces.df_over_f, whole.calcium_traces.df_over_f[:, columns])

    def test_a_window_is_the_same_for_the_same_seed(self, sim_dir, diet):
        ids = [self.draw(sim_dir, diet, seed).rois.id.tolist() for seed in (1, 1, 2)]
        assert ids[0] == ids[1] != ids[2]

    def test_without_a_diet_it_is_unit_dropout(self, sim_dir):
        assert 2 <= len(self.draw(sim_dir, None, 1).units) <= 12

    def test_takes_every_argument_of_unit_dropout(self, diet):
        DietUnitDropout(
            diet=diet,
            field="calcium_traces.df_over_f",
            reset_index=True,
            peak=3,
            M=8,
            max_attempts=9,
            seed=1,
            **self.SIZES,
        )
        with pytest.raises(DietError, match="takes what UnitDropout takes.*'nonsense'"):
            DietUnitDropout(diet=diet, nonsense=1)


def of_one_kind(kind: str, n: int = 30) -> Data:
    """A window of units with spikes or with traces, as torch_brain's own transforms take it."""
    data = both_kinds(n)
    activity = {kind: getattr(data, kind)}
    return Data(domain=data.domain, session=data.session, units=data.units, **activity)


FIELDS = {"spikes": "spikes", "calcium_traces": "calcium_traces.df_over_f"}


@pytest.mark.parametrize("kind", FIELDS)
class TestContractOfUnitDropout:
    """What holds of torch_brain's UnitDropout holds of ours, with and without a diet."""

    SIZES = {"min_units": 5, "mode_units": 10, "max_units": 20, "tail_right": 15}

    def diet(self, n: int = 30) -> Diet:
        rows = [dict(recording_id="a", unit_id=f"u{i}", skewness=i % 3 * 2, kurtosis=0) for i in range(n)]
        return Diet.from_thresholds(PredictabilityTable.from_rows(rows))  # two in three

    def test_same_distribution_of_sizes(self, kind):
        def sizes(transform) -> list[int]:
            np.random.seed(0)
            return [len(transform(of_one_kind(kind)).units) for _ in range(400)]

        stock = sizes(UnitDropout(FIELDS[kind], seed=1, **self.SIZES))
        ours = sizes(DietUnitDropout(None, FIELDS[kind], seed=2, **self.SIZES))
        assert min(ours) >= 5 and max(ours) <= 20 and stats.ks_2samp(stock, ours).pvalue > 0.01

    def test_the_same_seed_keeps_as_many_as_torch_brain_s(self, kind):
        stock, ours = (
            UnitDropout(FIELDS[kind], seed=3, **self.SIZES),
            DietUnitDropout(None, FIELDS[kind], seed=3, **self.SIZES),
        )
        for _ in range(20):
            assert len(stock(of_one_kind(kind)).units) == len(ours(of_one_kind(kind)).units)

    def test_what_is_kept_is_unchanged(self, kind):
        before = of_one_kind(kind)
        after = DietUnitDropout(self.diet(), FIELDS[kind], **self.SIZES)(of_one_kind(kind))
        kept = np.isin(before.units.id, after.units.id)
        assert kept.sum() == len(after.units) and set(after.units.id) <= set(self.diet().units("a"))
        if kind == "calcium_traces":
            np.testing.assert_array_equal(after.calcium_traces.df_over_f, before.calcium_traces.df_over_f[:, kept])
        else:
            chosen = kept[before.spikes.unit_index]
            np.testing.assert_array_equal(after.spikes.timestamps, before.spikes.timestamps[chosen])
            names = before.units.id[before.spikes.unit_index[chosen]]
            assert after.units.id[after.spikes.unit_index].tolist() == names.tolist()

    def test_fewer_units_than_the_minimum_are_all_kept(self, kind):
        for transform in (UnitDropout, lambda field, **sizes: DietUnitDropout(None, field, **sizes)):
            assert len(transform(FIELDS[kind], **self.SIZES)(of_one_kind(kind, 4)).units) == 4

    def test_without_resetting_the_index(self, kind):
        before = of_one_kind(kind)
        after = DietUnitDropout(self.diet(), FIELDS[kind], reset_index=False, **self.SIZES)(of_one_kind(kind))
        stock = UnitDropout(FIELDS[kind], reset_index=False, **self.SIZES)(of_one_kind(kind))
        assert after.units.id.tolist() == stock.units.id.tolist() == before.units.id.tolist()
        if kind == "spikes":
            members = np.isin(before.units.id, self.diet().units("a"))
            assert members[after.spikes.unit_index].all() and len(after.spikes.timestamps) > 0

    def test_on_a_recording_opened_lazily(self, kind, tmp_path):
        """As torch_brain's Dataset hands it over: arrays are read, and series change class, on first use."""
        write_recording(of_one_kind(kind), tmp_path / "a.h5")
        for transform in (
            SelectUnits(self.diet(), FIELDS[kind]),
            DietUnitDropout(self.diet(), FIELDS[kind], **self.SIZES),
        ):
            with h5py.File(tmp_path / "a.h5") as file:
                after = transform(Data.from_hdf5(file).slice(0.0, 1.0))
                assert set(after.units.id.astype(str)) <= set(self.diet().units("a"))
                if kind == "spikes":
                    assert after.spikes.unit_index.max() < len(after.units)
                else:
                    assert after.calcium_traces.df_over_f.shape[1] == len(after.units)


class TestContractOfUnitFilter:
    keep = np.array([True, False] * 15)

    def filters(self) -> tuple[UnitFilter, SelectUnits]:
        rows = [
            dict(recording_id="a", unit_id=f"u{i}", skewness=0 if k else 9, kurtosis=0) for i, k in enumerate(self.keep)
        ]
        diet = Diet.from_thresholds(PredictabilityTable.from_rows(rows))
        return UnitFilter(lambda units: self.keep, "spikes"), SelectUnits(diet)

    def test_on_spikes_it_is_unit_filter(self):
        stock, ours = (transform(of_one_kind("spikes")) for transform in self.filters())
        assert ours.units.id.tolist() == stock.units.id.tolist()
        for key in ("timestamps", "unit_index"):
            np.testing.assert_array_equal(getattr(ours.spikes, key), getattr(stock.spikes, key))

    def test_on_traces_it_does_what_unit_filter_refuses(self):
        stock, ours = self.filters()
        stock.field = "calcium_traces"
        with pytest.raises(NotImplementedError):
            stock(of_one_kind("calcium_traces"))
        before, after = of_one_kind("calcium_traces"), ours(of_one_kind("calcium_traces"))
        np.testing.assert_array_equal(after.calcium_traces.df_over_f, before.calcium_traces.df_over_f[:, self.keep])
        assert after.units.id.tolist() == before.units.id[self.keep].tolist()


class TestStandardizeTraces:
    def test_train_time_has_mean_0_and_standard_deviation_1(self, sim_dir, table):
        dataset = Recordings(sim_dir, transform=StandardizeTraces(table))
        train = dataset.get_recording("sim_000").train_domain
        pieces = [
            dataset[DatasetIndex("sim_000", a, b)].calcium_traces.df_over_f for a, b in zip(train.start, train.end)
        ]
        x = np.concatenate(pieces)
        np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
        np.testing.assert_allclose(x.std(axis=0), 1, atol=1e-4)
        assert x.dtype == np.float32

    def test_after_selection(self, sim_dir, table, diet):
        whole = Recordings(sim_dir, transform=StandardizeTraces(table))[DatasetIndex("sim_000", 5.0, 6.0)]
        data = Recordings(sim_dir, transform=SelectUnits(diet))[DatasetIndex("sim_000", 5.0, 6.0)]
        part = StandardizeTraces(table)(data)
        columns = [whole.rois.id.tolist().index(unit) for unit in part.rois.id]
        np.testing.assert_array_equal(part.calcium_traces.df_over_f, whole.calcium_traces.df_over_f[:, columns])

    def test_a_constant_trace_does_not_blow_up(self):
        row = dict(
            recording_id="a", unit_id="u0", mean=1.0, std=0.0, skewness=np.nan, kurtosis=np.nan, status="constant"
        )
        data = both_kinds(1)
        out = StandardizeTraces(PredictabilityTable.from_rows([row]))(data).calcium_traces.df_over_f
        assert np.isfinite(out).all()

    def test_neurons_that_were_not_scored(self, sim_dir, table):
        part = table.select(table["recording_id"] != "sim_000")
        with pytest.raises(TableError, match="'sim_000' is not in the table"):
            Recordings(sim_dir, transform=StandardizeTraces(part))[DatasetIndex("sim_000", 5.0, 6.0)]
        fewer = table.select(table["unit_id"] != "sim_000_0003")
        with pytest.raises(TableError, match="'sim_000/sim_000_0003'"):
            Recordings(sim_dir, transform=StandardizeTraces(fewer))[DatasetIndex("sim_000", 5.0, 6.0)]


def test_unit_ids_prefer_what_the_field_refers_to():
    data = both_kinds(2)
    data.units = ArrayDict(id=np.array(["s1", "s2"]))
    assert unit_ids(data).tolist() == ["u0", "u1"]
    assert unit_ids(data, "spikes").tolist() == ["s1", "s2"]


def test_spikes_become_counts_that_calcium_models_read(spike_dir, spike_table_path):
    table = PredictabilityTable.load(spike_table_path)
    diet = Diet.random(table, n_units=5)
    dataset = Recordings(spike_dir, fields=["spikes"])
    name = next(name for name in dataset.recording_ids if diet.count(name))
    select, count = SelectUnits(diet, "spikes"), CountSpikes(0.1)
    plain = select(dataset[DatasetIndex(name, 10.0, 12.05)])
    n_spikes = int((plain.spikes.timestamps < 2.0).sum())
    window = count(select(dataset[DatasetIndex(name, 10.0, 12.05)]))
    counts = window.calcium_traces.df_over_f
    assert counts.shape == (20, diet.count(name)) and counts.sum() == n_spikes > 0
    whole = open_signal(dataset.get_recording(name), "spikes", bin_width=0.1)
    expected = next(iter(whole.blocks(np.array([[10.0, 12.0]]))))[:, diet.mask(name, whole.unit_ids)]
    np.testing.assert_array_equal(counts, expected)
    standardized = StandardizeTraces(table)(window).calcium_traces.df_over_f
    scored = [str(unit).rpartition("/")[2] for unit in table["unit_id"]]
    rows = [scored.index(unit.rpartition("/")[2]) for unit in window.rois.id.tolist()]
    np.testing.assert_allclose(standardized, (counts - table["mean"][rows]) / table["std"][rows], rtol=1e-4, atol=1e-5)
    model = CalciumPOYO(sequence_length=2.0, latent_step=0.5, patch_size=5, dim=16, dim_out=3)
    model.set_vocabs(unit_ids=window.rois.id.tolist(), session_ids=[name])
    assert model.tokenize(window)["input_values"].obj.shape == (diet.count(name), 4, 5)
