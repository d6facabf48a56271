from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from poyo_ssl_plugin.errors import PoyoSSLError
from poyo_ssl_plugin.predictability import Moments, skewness_kurtosis
from poyo_ssl_plugin.predictability.moments import _block_elements

RTOL = 1e-9


@pytest.fixture
def traces() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.gamma(rng.uniform(0.3, 3, 17), size=(5000, 17))


def assert_like_scipy(x: np.ndarray, reference: np.ndarray | None = None, **options) -> None:
    reference = np.asarray(x, float) if reference is None else reference
    skewness, kurtosis = skewness_kurtosis(x, **options)
    np.testing.assert_allclose(skewness, stats.skew(reference, **_scipy(options)), rtol=RTOL, atol=1e-12)
    np.testing.assert_allclose(kurtosis, stats.kurtosis(reference, **_scipy(options)), rtol=RTOL, atol=1e-12)


def _scipy(options: dict) -> dict:
    return {key: value for key, value in options.items() if key in ("axis", "nan_policy")}


def test_agrees_with_scipy(traces):
    assert_like_scipy(traces)


def test_agrees_with_scipy_on_an_offset_of_a_million(traces):
    # scipy itself loses 8 digits to the offset, so it is asked about the same numbers without it.
    offset = traces + 1e6
    assert_like_scipy(offset, reference=offset - 1e6)


def test_agrees_with_scipy_on_float32_integers_and_booleans(traces):
    assert_like_scipy(traces.astype(np.float32))
    assert_like_scipy((traces * 10).astype(np.int16))
    assert_like_scipy(traces > 1)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_any_axis_and_any_shape(traces, axis):
    cube = traces[:600].reshape(20, 30, 17)
    assert_like_scipy(cube, axis=axis)
    assert_like_scipy(traces[:, 0])


def test_non_contiguous_input(traces):
    assert_like_scipy(traces[::3, ::2])
    assert_like_scipy(np.asfortranarray(traces))


def test_pearson_kurtosis(traces):
    fisher, pearson = (skewness_kurtosis(traces, fisher=flag)[1] for flag in (True, False))
    np.testing.assert_allclose(pearson - fisher, 3.0)


def test_a_first_block_far_from_the_rest(traces):
    assert_like_scipy(np.concatenate([traces[:50] + 500, traces]))


def test_long_drifting_input_in_many_panels():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((300_000, 2)) + np.linspace(0, 1e5, 300_000)[:, None]
    assert_like_scipy(x)


def test_nan_policies(traces):
    holes = traces.copy()
    holes[np.random.default_rng(2).random(holes.shape) < 0.1] = np.nan
    assert_like_scipy(holes, nan_policy="omit")
    assert np.isnan(skewness_kurtosis(holes)[0]).all()
    with pytest.raises(PoyoSSLError, match="nan_policy='omit'"):
        skewness_kurtosis(holes, nan_policy="raise")
    with pytest.raises(PoyoSSLError, match="must be"):
        skewness_kurtosis(holes, nan_policy="ignore")


def test_a_constant_an_empty_and_an_all_nan_trace_have_none():
    x = np.stack([np.full(100, 0.1), np.full(100, np.nan), np.arange(100.0)], axis=1)
    skewness, kurtosis = skewness_kurtosis(x, nan_policy="omit")
    assert np.isnan(skewness).tolist() == np.isnan(kurtosis).tolist() == [True, True, False]
    assert np.isnan(skewness_kurtosis(np.empty((0, 3)))[0]).all()


def test_rejects_what_is_not_a_real_array():
    for wrong in (np.float64(3.0), np.array(["a"]), np.ones(3) * 1j):
        with pytest.raises(PoyoSSLError, match="real array"):
            skewness_kurtosis(wrong)


def test_blocks_of_any_size_and_merging_give_the_same(traces):
    whole, pieces, left, right = (Moments(17) for _ in range(4))
    whole.update(traces)
    for start in range(0, len(traces), 37):
        pieces.update(traces[start : start + 37])
    left.update(traces[:1234])
    right.update(traces[1234:])
    left.merge(right)
    for other in (pieces, left):
        np.testing.assert_allclose(other.skewness(), whole.skewness(), rtol=1e-11)
        np.testing.assert_allclose(other.kurtosis(), whole.kurtosis(), rtol=1e-11)
        np.testing.assert_allclose(other.variance(), traces.var(axis=0), rtol=1e-12)
        np.testing.assert_allclose(other.mean, traces.mean(axis=0), rtol=1e-12)


def test_real_traces(real_data):
    import h5py

    with np.load(real_data / "cell_types" / "traces.npz", allow_pickle=False) as file:
        for name in [key for key in file.files if key.startswith("trace_")]:
            assert_like_scipy(file[name][np.isfinite(file[name])])
    with h5py.File(real_data / "allen_501574836" / "spike_raster.mat") as file:
        raster = file["raster"][:40].T
    assert_like_scipy(raster)
    assert_like_scipy(raster + 1e6, reference=raster.astype(float))


@pytest.mark.parametrize(("size", "elements"), [("2048K", 32_768), ("512K", 16_384), ("32K", 8_192), ("?", 32_768)])
def test_blocks_fit_into_the_second_level_cache(tmp_path, size, elements):
    path = tmp_path / "size"
    path.write_text(f"{size}\n")
    assert _block_elements(path) == elements
