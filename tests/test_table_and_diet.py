from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from poyo_ssl_plugin.errors import DietError, TableError
from poyo_ssl_plugin.predictability import (
    Diet,
    PredictabilityTable,
    configured_diet,
    fed_recordings,
    make_diet,
    unpredictability,
)


def rows(*specs: tuple) -> PredictabilityTable:
    """A table of (recording, unit, skewness, kurtosis[, cre line[, status]])."""
    keys = ("recording_id", "unit_id", "skewness", "kurtosis", "cre_line", "status")
    return PredictabilityTable.from_rows([dict(zip(keys, spec, strict=False)) for spec in specs], {"split": "train"})


@pytest.fixture
def small() -> PredictabilityTable:
    return rows(
        ("a", "u1", 0.5, 1.0, "Sst_IRES_Cre"),
        ("a", "u2", 3.51, 22.62, "Sst_IRES_Cre"),
        ("a", "u3", 3.52, 1.0, "Sst_IRES_Cre"),
        ("a", "u4", np.nan, np.nan, "Sst_IRES_Cre", "constant"),
        ("b", "u1", 1.0, 30.0, "Cux2_CreERT2"),
        ("b", "u5", 2.0, 2.0, "Cux2_CreERT2"),
    )


class TestTable:
    def test_csv_gives_back_every_bit(self, table, tmp_path):
        table.to_csv(tmp_path / "t.csv")
        assert PredictabilityTable.from_csv(tmp_path / "t.csv") == table

    def test_parquet_gives_back_every_bit(self, table, tmp_path):
        pytest.importorskip("pyarrow")
        table.save(tmp_path / "t.parquet")
        assert PredictabilityTable.load(tmp_path / "t.parquet") == table

    def test_provenance_lies_beside_so_that_pandas_reads_a_row_a_neuron(self, small, tmp_path):
        small.to_csv(tmp_path / "t.csv")
        frame = pd.read_csv(tmp_path / "t.csv")
        assert len(frame) == 6 and list(frame.columns) == small.columns and frame.skewness.isna().sum() == 1
        assert json.loads((tmp_path / "t.provenance.json").read_text())["split"] == "train"

    def test_a_csv_of_somebody_else_has_no_provenance(self, small, tmp_path, caplog):
        small.to_csv(tmp_path / "t.csv")
        frame = pd.read_csv(tmp_path / "t.csv")
        frame.to_csv(tmp_path / "own.csv", index=False)
        read = PredictabilityTable.load(tmp_path / "own.csv")
        assert read.provenance == {} and read.frame.equals(small.frame) and not caplog.records
        frame[frame.recording_id == "a"].to_csv(tmp_path / "t.csv", index=False)
        assert PredictabilityTable.load(tmp_path / "t.csv").provenance == {} and "was changed after" in caplog.text

    def test_ids_that_look_like_numbers_or_nothing_stay_texts(self, tmp_path):
        rows(("001", "NA", 0.5, 1.0), ("001", "1e3", 0.5, 1.0)).to_csv(tmp_path / "t.csv")
        read = PredictabilityTable.load(tmp_path / "t.csv")
        assert read["unit_id"].tolist() == ["NA", "1e3"] and read.recordings == ["001"]

    def test_select_and_unknown_column(self, small):
        assert small.select(small["recording_id"] == "b")["unit_id"].tolist() == ["u1", "u5"]
        with pytest.raises(TableError, match="no column 'skew'"):
            small["skew"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("recording_id,unit_id\na,1\n", "needs the column"),
            ("", "empty"),
            ("\x00\x01", "table"),
            ("# provenance: {}\nrecording_id\n", "version 0.1.*make it again with 'poyo-ssl score'"),
        ],
    )
    def test_a_damaged_file_is_named(self, tmp_path, text, message):
        path = tmp_path / "bad.csv"
        path.write_text(text)
        with pytest.raises(TableError, match=message) as error:
            PredictabilityTable.load(path)
        assert "bad.csv" in str(error.value)

    def test_a_missing_file_says_how_to_make_one(self, tmp_path):
        with pytest.raises(TableError, match="poyo-ssl score"):
            PredictabilityTable.load(tmp_path / "none.csv")

    def test_a_neuron_occurs_once(self):
        with pytest.raises(TableError, match="'u1' of recording 'a' occurs twice"):
            rows(("a", "u1", 1, 1), ("a", "u1", 2, 2))


class TestDiet:
    def test_thresholds_are_inclusive_and_both_count(self, small):
        diet = Diet.from_thresholds(small)
        assert diet.units("a") == ["u1", "u2"] and diet.units("b") == ["u5"]
        assert diet.summary() == "kept 3 of 6 units in 2 of 2 recordings"

    def test_membership_is_unpredictability_of_at_most_one(self, table):
        diet = Diet.from_thresholds(table)
        expected = unpredictability(table) <= 1
        for name in table.recordings:
            of = table["recording_id"] == name
            np.testing.assert_array_equal(diet.mask(name, table["unit_id"][of]), expected[of])

    def test_complement_has_the_other_scored_neurons_only(self, small):
        rest = Diet.from_thresholds(small).complement()
        assert rest.units("a") == ["u3"] and rest.units("b") == ["u1"] and rest.name == "unpredictable"
        assert rest.complement().units("a") == ["u1", "u2"]

    def test_mask_follows_the_order_asked_for(self, small):
        diet = Diet.from_thresholds(small)
        assert diet.mask("a", ["u4", "u2", "u3", "u1"]).tolist() == [False, True, False, True]
        assert diet.mask("a", np.array(["u1"])).tolist() == [True]

    def test_quantile_takes_the_most_predictable(self, small):
        diet = Diet.from_quantile(small, 0.4)
        assert len(diet) == 2 and diet.units("a") == ["u1"] and diet.units("b") == ["u5"]
        with pytest.raises(DietError, match="quantile"):
            Diet.from_quantile(small, 0.0)

    def test_quantile_by_any_statistic(self, small):
        frame = small.frame.assign(entropy=[3.0, 1.0, 2.0, 0.0, np.nan, 5.0])
        table = PredictabilityTable(frame)
        diet = make_diet(table, "quantile", quantile=0.5, by="entropy")
        assert diet.units("a") == ["u2", "u3"] and diet.count("b") == 0  # of four with a value
        assert diet.mask("a", ["u2", "u3"], fraction=0.5).tolist() == [True, False]
        for name in ("entropie", "cre_line"):
            with pytest.raises(TableError, match=f"no statistic '{name}'; add it with 'poyo-ssl score --statistic"):
                make_diet(small, "quantile", by=name)

    @pytest.mark.parametrize("make", [Diet.from_thresholds, Diet.everything, Diet.random, Diet.from_cre_lines, Diet])
    def test_what_is_no_table(self, make):
        further = [np.ones(1)] if make is Diet else []
        with pytest.raises(TableError, match=r"of a table, not of 't\.csv': PredictabilityTable\.load reads one"):
            make("t.csv", *further)

    def test_ids_with_the_recording_before_them(self, small):
        assert Diet.from_thresholds(small).mask("a", ["a/u3", "a/u1"]).tolist() == [False, True]

    def test_cre_lines_by_gene_or_in_full(self, small):
        assert Diet.from_cre_lines(small).units("a") == ["u1", "u2", "u3"]
        assert len(Diet.from_cre_lines(small, ["CUX2_creert2"])) == 2
        with pytest.raises(DietError, match="Cux2_CreERT2, Sst_IRES_Cre"):
            Diet.from_cre_lines(small, ["Pvalb"])

    def test_random_is_reproducible_and_of_the_size_asked(self, table):
        a, b, c = (Diet.random(table, n_units=9, seed=seed) for seed in (1, 1, 2))
        assert len(a) == 9 and a == b and a != c
        with pytest.raises(DietError, match="cannot draw"):
            Diet.random(table, n_units=10_000)

    def test_and_or(self, small):
        predictable, sst = Diet.from_thresholds(small), Diet.from_cre_lines(small)
        assert (predictable & sst).units("a") == ["u1", "u2"] and (predictable & sst).count("b") == 0
        assert (predictable | sst).units("a") == ["u1", "u2", "u3"]

    def test_a_fraction_opens_from_the_most_predictable(self, small):
        diet = Diet.everything(small)
        ids = ["u1", "u2", "u3"]
        assert diet.mask("a", ids, fraction=0.2).tolist() == [True, False, False]
        assert diet.mask("a", ids, fraction=0.8).tolist() == [True, True, True]
        # b's best neuron is open from the start, so that no window is empty.
        assert diet.mask("b", ["u1", "u5"], fraction=0.01).tolist() == [False, True]

    def test_unknown_recordings_and_neurons_are_errors(self, small):
        diet = Diet.everything(small)
        with pytest.raises(DietError, match="'c' was not scored"):
            diet.mask("c", ["u1"])
        with pytest.raises(DietError, match="unit 'u9' of recording 'a'"):
            diet.mask("a", ["u1", "u9"])

    def test_save_and_load(self, small, tmp_path):
        diet = Diet.from_thresholds(small)
        diet.save(tmp_path / "diet.json")
        loaded = Diet.load(tmp_path / "diet.json")
        assert loaded == diet and loaded.rule == diet.rule and loaded.provenance == {"split": "train"}
        assert loaded.complement() == diet.complement()

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}'])
    def test_a_damaged_file_is_named(self, tmp_path, text):
        (tmp_path / "d.json").write_text(text)
        with pytest.raises(DietError, match=r"d\.json"):
            Diet.load(tmp_path / "d.json")


class TestRules:
    def test_each_rule_gives_its_diet(self, small):
        assert make_diet(small, "unpredictable").units("a") == ["u3"]
        assert len(make_diet(small, "all")) == 5
        assert len(make_diet(small, "not_cre_lines", cre_lines=["Sst"])) == 2
        assert len(make_diet(small, "random", n_units=2)) == 2

    def test_all_of_a_script_needs_no_table(self, small, caplog):
        caplog.set_level("INFO")
        assert configured_diet(None, "all") is None and fed_recordings(None) is None and "all units" in caplog.text
        assert configured_diet(small, "all") == Diet.everything(small)

    def test_reads_a_table_file(self, small, tmp_path):
        small.to_csv(tmp_path / "t.csv")
        assert make_diet(tmp_path / "t.csv") == Diet.from_thresholds(small)

    def test_bad_rules(self, small):
        with pytest.raises(DietError, match="unknown diet rule 'predictabel'"):
            make_diet(small, "predictabel")
        with pytest.raises(DietError, match="it keeps nothing"):
            make_diet(small, "predictable", skewness=-5)
        with pytest.raises(DietError, match="unexpected keyword"):
            make_diet(small, "predictable", skewnes=1)
        with pytest.raises(TableError, match="poyo-ssl score"):
            make_diet(None)
