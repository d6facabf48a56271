from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import signal as filters
from scipy import stats

from poyo_ssl_plugin.errors import RecordingError
from poyo_ssl_plugin.experiments.stability import (
    Stability,
    Thresholds,
    _of_recording,
    cut,
    measure_stability,
    shape_of,
    write_stability,
)
from poyo_ssl_plugin.predictability import Diet, skewness_kurtosis

RATE = 30.0


def power_sums(x: np.ndarray, n_blocks: int) -> np.ndarray:
    """(5, B, N) of traces (T, N)."""
    return np.stack([[(block**k).sum(axis=0) for block in np.array_split(x, n_blocks)] for k in range(5)])


def events(rng: np.random.Generator, seconds: float, n: int, rate: float = 0.1) -> np.ndarray:
    """Traces of rare events that decay over a second, and noise."""
    spikes = rng.poisson(rate / RATE, (int(seconds * RATE), n)).astype(float)
    return filters.lfilter([1], [1, -np.exp(-1 / RATE)], spikes, axis=0) + 0.1 * rng.normal(size=spikes.shape)


def test_shapes_are_scipy_s():
    x = np.random.default_rng(0).gamma(2.0, size=(500, 3))
    skewness, kurtosis = shape_of(power_sums(x - 1.0, 7).sum(axis=1))
    np.testing.assert_allclose(skewness, stats.skew(x), rtol=1e-9)
    np.testing.assert_allclose(kurtosis, stats.kurtosis(x), rtol=1e-9)
    np.testing.assert_allclose(shape_of(power_sums(x, 2).sum(axis=1), fisher=False)[1], kurtosis + 3, rtol=1e-9)


def test_blocks_do_not_cross_gaps():
    pieces = cut(np.array([[0.0, 95.0], [100.0, 131.0]]), 30.0)
    assert len(pieces) == 4 and pieces[2, 1] == 95.0 and pieces[3].tolist() == [100.0, 131.0]


def test_the_bootstrap_knows_how_much_skewness_varies():
    """Against many recordings of one neuron: blocks give the true spread, single frames a far too small one."""
    rng = np.random.default_rng(0)
    recordings = events(rng, 900, 200)
    truth = stats.skew(recordings).std()

    def spread(n_blocks: int) -> float:
        sums = power_sums(recordings[:, :40], n_blocks)
        weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=200)
        return float(np.median(shape_of(weights.astype(float) @ sums)[0].std(axis=0)))

    assert spread(30) == pytest.approx(truth, rel=0.35)
    assert spread(9000) < 0.6 * truth


def test_confidence_is_calibrated():
    """A neuron of confidence c is on the same side in about a share c of other recordings of it."""
    rng = np.random.default_rng(1)
    recordings = events(rng, 600, 300)
    threshold = Thresholds(skewness=float(np.quantile(stats.skew(recordings), 0.7)), kurtosis=1e9)
    found = _of_recording(power_sums(recordings, 20), np.zeros(300), threshold, 300, (0.5,), (1.0,), rng)
    # All of these are the same neuron: 0.7 of its recordings are in.
    assert float(found[1].mean()) == pytest.approx(0.7, abs=0.12)


class TestMeasure:
    def test_members_are_those_of_the_diet(self, dataset, table):
        stability = measure_stability(dataset, table, n_bootstrap=40, block_seconds=10.0)
        diet = Diet.from_thresholds(table)
        expected = [diet.mask(r, [u])[0] for r, u in zip(stability.recording_id, stability.unit_id, strict=True)]
        assert stability.member.tolist() == expected and len(stability.member) == int(table.ok.sum())
        far = stability.confidence[stability.member].mean() - stability.confidence[~stability.member].mean()
        assert far > 0.4
        assert all(((f >= 0) & (f <= 1)).all() for f in (*stability.by_length.values(), *stability.by_noise.values()))
        again = measure_stability(dataset, table, n_bootstrap=40, block_seconds=10.0)
        np.testing.assert_array_equal(again.confidence, stability.confidence)

    def test_the_whole_recording_flips_nothing(self, dataset, table):
        stability = measure_stability(dataset, table, n_bootstrap=5, block_seconds=10.0, lengths=(1.0,), noises=(0.0,))
        assert not stability.by_length[1.0].any() and not stability.by_noise[0.0].any()

    def test_added_noise_is_what_adding_noise_gives(self, dataset, table):
        data = dataset.get_recording("sim_000")
        from poyo_ssl_plugin.experiments.stability import _read
        from poyo_ssl_plugin.recordings import open_signal

        rng = np.random.default_rng(0)
        signal = open_signal(data)
        rows = table["recording_id"] == "sim_000"
        pieces = cut(np.array(table.provenance["intervals"]["sim_000"]), 10.0)
        sums, noise = _read(signal, pieces, np.arange(20), table["mean"][rows])
        x = np.concatenate([b for piece in pieces for b in signal.blocks(piece[None])])
        skewness, kurtosis = skewness_kurtosis(x + 2 * noise * rng.normal(size=x.shape))
        members = Thresholds().members(skewness, kurtosis)
        found = _of_recording(sums, noise, Thresholds(), 5, (1.0,), (2.0,), rng)
        assert np.mean((found[0] != members) == found[3][2.0].astype(bool)) >= 0.9

    def test_summary_and_files(self, dataset, table, tmp_path):
        stability = measure_stability(dataset, table, n_bootstrap=40, block_seconds=10.0)
        summary = stability.summary()
        assert set(summary["by_cre_line"]) == {"Cux2_CreERT2", "Pvalb_IRES_Cre", "Rorb_IRES2_Cre"}
        assert sum(line["neurons"] for line in summary["by_cre_line"].values()) == summary["all"]["neurons"]
        written = write_stability(stability, tmp_path / "s.json", settings={"block_seconds": 10.0})
        content = json.loads(written[0].read_text())
        assert len(content["neurons"]) == len(stability.member) and content["block_seconds"] == 10.0
        assert content["neurons"][0].keys() == {"recording_id", "unit_id", "cre_line", "predictable", "confidence"}
        assert written[1].read_bytes().startswith(b"\x89PNG")

    def test_too_few_blocks(self, dataset, table):
        with pytest.raises(RecordingError, match="blocks of 200 s of scored time are too few"):
            measure_stability(dataset, table, block_seconds=200.0)

    def test_the_command(self, sim_dir, tmp_path):
        from click.testing import CliRunner

        from poyo_ssl_plugin.cli import main

        arguments = ["score", str(sim_dir), "--out", str(tmp_path / "t.csv"), "--report", "--block", "10"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert "uncertain" in result.output and "Pvalb_IRES_Cre" in result.output
        assert {path.name for path in tmp_path.iterdir()} == {
            "t.csv", "t.png", "t_traces.png", "t_stability.json", "t_stability.png",
        }  # fmt: skip


def test_uncertain_neurons():
    n = np.array([0.0, 0.5, 0.97])
    empty = np.zeros(3)
    stability = Stability(*(np.array(["a", "b", "c"]),) * 3, n > 0.4, n, {0.5: empty}, {1.0: empty})
    assert stability.uncertain.tolist() == [False, True, False]
    assert stability.summary()["all"]["expected_flips"] == pytest.approx(0.53)
