"""What suite2p, CaImAn and neuroconv themselves write is imported; a test is skipped where its library is missing.

They are too heavy for the environment of the other tests; CONTRIBUTING.md says how to install them.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from recording_files import RATE, run
from scipy.signal import lfilter

from poyo_ssl_plugin.compat import Dataset
from poyo_ssl_plugin.data.importing import read_caiman, read_suite2p

SIZE, CELLS = 64, 9


def movie(n_frames: int, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Cells on a grid that flash and fade, with photon noise: int16 (T, Y, X), and their calcium (T, N)."""
    rng = np.random.default_rng(0)
    calcium = lfilter([1], [1, -np.exp(-1 / rate)], rng.random((n_frames, CELLS)) < 0.15 / rate, axis=0)
    along = np.exp(-((np.arange(SIZE) - SIZE * np.array([[1], [3], [5]]) / 6) ** 2) / 18)
    cells = np.einsum("iy,jx->ijyx", along, along).reshape(CELLS, SIZE, SIZE)
    return rng.poisson(100 + np.tensordot(60 + 200 * calcium, cells, axes=1)).astype(np.int16), calcium


def recovered(traces: np.ndarray, calcium: np.ndarray) -> np.ndarray:
    """Correlation of every simulated cell with the imported trace that is most like it, (N,)."""
    together = np.corrcoef(traces.T, calcium.T)
    return together[: traces.shape[1], traces.shape[1] :].max(axis=0)


def imported(command: str, path: Path, out: Path):
    result = run(command, path, "--out", out, "--recording", "m1")
    assert result.exit_code == 0, result.output
    return Dataset(str(out)).get_recording("m1")


@pytest.fixture(scope="module")
def suite2p_run(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """Two planes by suite2p, the second a frame shorter, the first ROI of all no cell; and the simulated calcium."""
    suite2p = pytest.importorskip("suite2p")
    tifffile = pytest.importorskip("tifffile")
    folder = tmp_path_factory.mktemp("movie")
    frames, calcium = movie(1201, 2 * RATE)
    tifffile.imwrite(folder / "movie.tif", frames)
    settings = suite2p.default_settings()
    settings |= {"fs": RATE, "torch_device": "cpu"}
    settings["run"]["do_registration"] = 0  # by what so small a movie shows, frames cannot be aligned
    suite2p.run_s2p(db={"data_path": [str(folder)], "nplanes": 2}, settings=settings)
    for view in ("plane0", "combined"):
        iscell = np.load(folder / "suite2p" / view / "iscell.npy")
        iscell[0, 0] = 0
        np.save(folder / "suite2p" / view / "iscell.npy", iscell)
    return folder / "suite2p", calcium


def test_suite2p(suite2p_run, out):
    from suite2p.extraction.dcnv import preprocess

    folder, calcium = suite2p_run
    data = imported("suite2p", folder, out)
    found = data.calcium_traces.df_over_f
    planes = [folder / "plane0", folder / "plane1"]
    cells = [np.flatnonzero(np.load(plane / "iscell.npy")[:, 0]) for plane in planes]
    assert list(map(len, cells)) == [CELLS - 1, CELLS]
    expected = [f"m1/{plane.name}_{cell}" for plane, of in zip(planes, cells) for cell in of]
    assert data.rois.id.astype(str).tolist() == expected
    assert data.calcium_traces.sampling_rate == RATE and found.shape == (600, len(expected))
    for i, (plane, rois) in enumerate(zip(planes, cells)):
        fluorescence, neuropil = np.load(plane / "F.npy")[rois], np.load(plane / "Fneu.npy")[rois]
        corrected = fluorescence - 0.7 * (neuropil - np.median(neuropil, axis=1, keepdims=True))
        above = preprocess(corrected.copy(), "maximin", 60.0, 10.0, RATE, device="cpu")
        own = found[:, len(cells[0]) * i :][:, : len(rois)]
        # Before and after the movie suite2p 1 repeats its first and last frame; suite2p 0, and we, mirror it.
        np.testing.assert_allclose(own, (above / (corrected - above)).T[:600], atol=0.1)
        assert (recovered(own, calcium[i::2][:600]) > 0.9).sum() == len(rois)

    combined = read_suite2p(folder / "combined")
    assert combined.values.shape == found.shape and combined.rate == RATE
    np.testing.assert_allclose(combined.values, found, atol=0.02)  # baselines differ where planes end


def test_suite2p_by_neuroconv(suite2p_run, tmp_path, out):
    """The NWB file that neuroconv makes of a plane holds what the plane does."""
    interfaces = pytest.importorskip("neuroconv.datainterfaces")
    interface = interfaces.Suite2pSegmentationInterface(folder_path=suite2p_run[0], plane_name="plane0")
    metadata = interface.get_metadata()
    metadata["NWBFile"]["session_start_time"] = datetime(2020, 1, 1, tzinfo=timezone.utc)
    interface.run_conversion(nwbfile_path=tmp_path / "mouse.nwb", metadata=metadata)
    data, plane = imported("nwb", tmp_path / "mouse.nwb", out), read_suite2p(suite2p_run[0] / "plane0")
    # The file lays its arrays out otherwise, so that sums of float32 differ in the last digit.
    np.testing.assert_allclose(data.calcium_traces.df_over_f, plane.values, rtol=0, atol=1e-6)
    assert data.calcium_traces.sampling_rate == plane.rate


def test_caiman(tmp_path, out):
    """Components that CaImAn found, evaluated and saved; then the accepted ones alone."""
    cnmf = pytest.importorskip("caiman.source_extraction.cnmf", reason="CaImAn, not the caiman of PyPI")
    from caiman import load_memmap, save_memmap

    frames, calcium = movie(600, RATE)
    pixels, _, _ = load_memmap(save_memmap([frames.astype(np.float32)], base_name=str(tmp_path / "movie"), order="C"))
    frames = pixels.T.reshape(frames.shape, order="F")
    groups = {
        "data": {"fr": RATE, "dims": (SIZE, SIZE)},
        "init": {"K": CELLS + 1, "gSig": [3, 3]},
        "quality": {"use_cnn": False, "min_SNR": 10},
    }
    cnm = cnmf.CNMF(1, params=cnmf.params.CNMFParams(params_dict=groups))
    cnm.fit(frames)
    estimates = cnm.estimates
    estimates.evaluate_components(frames, cnm.params)
    estimates.detrend_df_f()
    accepted = estimates.idx_components
    assert CELLS <= len(accepted) < len(estimates.F_dff)
    cnm.save(str(tmp_path / "all.hdf5"))

    data = imported("caiman", tmp_path / "all.hdf5", out)
    assert data.rois.id.astype(str).tolist() == [f"m1/{component}" for component in accepted]
    assert data.calcium_traces.sampling_rate == RATE
    found = data.calcium_traces.df_over_f
    np.testing.assert_array_equal(found, estimates.F_dff[accepted].T.astype(np.float32))
    assert (recovered(found, calcium) > 0.9).all()

    estimates.select_components(use_object=True)
    cnm.save(str(tmp_path / "accepted.hdf5"))
    np.testing.assert_array_equal(read_caiman(tmp_path / "accepted.hdf5").values, found)
