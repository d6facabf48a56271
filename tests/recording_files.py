"""Recordings in the files of suite2p, CaImAn and NWB, and the command that imports them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import Result
from command_line import invoke

RATE, FRAMES, CELLS, TRIALS = 10.0, 600, 5, 20

# How the numbers in an NWB file are turned into its unit.
SCALE = {"conversion": 2.0, "offset": 1.0}


def run(*arguments: object) -> Result:
    return invoke("import", *arguments)


def refused(result: Result, out: Path, message: str = "", *, before: dict[str, bytes] | None = None) -> str:
    """One sentence, exit code 2, and the output folder as it was. Returns the sentence."""
    assert result.exit_code == 2, f"{result.output}{result.exception!r}"
    said = result.stderr.removesuffix("\n")
    assert said.startswith("error: ") and "\n" not in said and len(said) < 700 and not result.stdout, result.output
    assert message in said, said
    assert contents(out) == (before or {})
    return said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def write_suite2p(folder: Path, traces: np.ndarray, fs: object = RATE, cells: slice = slice(None)) -> Path:
    """Files as suite2p lays them out (roiextractors reads them so); ``test_importing_real`` runs suite2p itself."""
    folder.mkdir(parents=True)
    n = traces.shape[1]
    np.save(folder / "F.npy", 100 + 20 * traces.T)
    np.save(folder / "Fneu.npy", np.full((n, len(traces)), 40.0, np.float32))
    iscell = np.zeros((n, 2), np.float32)
    iscell[cells] = 1, 0.9
    np.save(folder / "iscell.npy", iscell)
    np.save(folder / "ops.npy", {"nplanes": 1, "fs": fs, "tau": 1.0, "nframes": len(traces), "Ly": 8, "Lx": 8})
    roi = {"ypix": np.array([1]), "xpix": np.array([2]), "lam": np.ones(1), "med": (1, 2)}
    np.save(folder / "stat.npy", np.array([roi] * n, dtype=object), allow_pickle=True)
    return folder


def write_caiman(path: Path, traces: np.ndarray, accepted: list[int] | None) -> Path:
    """Groups as CaImAn's save_dict_to_hdf5 writes them (roiextractors reads them so)."""
    n = traces.shape[1]
    with h5py.File(path, "w") as file:
        file["estimates/F_dff"], file["estimates/C"] = traces.T, traces.T
        file["estimates/idx_components"] = "NoneType" if accepted is None else np.array(accepted)
        file["params/data/fr"] = RATE
        # Footprints, a sparse matrix (pixels, components), which only roiextractors asks for.
        pixels = {"data": np.ones(n), "indices": np.arange(n), "indptr": np.arange(n + 1), "shape": (64, n)}
        for name, values in pixels.items():
            file[f"estimates/A/{name}"] = values
        file["estimates/dims"] = file["params/data/dims"] = (8, 8)
    return path


def write_nwb(
    path: Path,
    traces: np.ndarray | None,
    kind: str = "df_over_f",
    spikes: list[np.ndarray] = (),
    cells: tuple[str, np.ndarray] | None = None,
) -> Path:
    """A file written by pynwb, laid out by one of the conventions of ``nwb_series``.

    ``cells`` is a column of the table of ROIs.
    """
    pynwb = pytest.importorskip("pynwb")
    from pynwb.ophys import DfOverF, Fluorescence, ImageSegmentation, OpticalChannel

    file = pynwb.NWBFile("test", "test", datetime(2020, 1, 1, tzinfo=timezone.utc))
    if traces is not None:
        device = file.create_device("microscope")
        channel = OpticalChannel(name="channel", description="green", emission_lambda=510.0)
        plane = file.create_imaging_plane(
            name="plane", optical_channel=channel, description="", device=device, excitation_lambda=900.0,
            imaging_rate=RATE, indicator="GCaMP6f", location="VISp",
        )  # fmt: skip
        ophys = file.create_processing_module("ophys", "ophys")
        segmentation = ImageSegmentation()
        ophys.add(segmentation)
        table = segmentation.create_plane_segmentation("cells", plane)
        for _ in range(CELLS):
            table.add_roi(pixel_mask=[(0, 0, 1.0)])
        if cells is not None:
            table.add_column(cells[0], "which are cells", data=cells[1])
        times = 0.5 + np.arange(len(traces)) / RATE
        clock = {"rate": RATE, "starting_time": 0.5} if kind == "df_over_f" else {"timestamps": times}
        for container, series in nwb_series(traces)[kind].items():
            held = DfOverF() if container == "DfOverF" else Fluorescence(name=container)
            ophys.add(held)
            for name, (values, rois) in series.items():
                region = table.create_roi_table_region("some", region=list(rois))
                held.create_roi_response_series(name, (values - 1) / 2, rois=region, unit="a.u.", **clock, **SCALE)
    for times in spikes:
        file.add_unit(spike_times=times)
    if traces is not None or len(spikes):
        file.add_trial_column("side", "where to")
        file.add_trial_column("licks", "when, several a trial", index=True)
        for i in range(TRIALS):
            file.add_trial(
                start_time=3.0 * i + 0.5, stop_time=3.0 * i + 2.5, side="lr"[i % 2], licks=[0.1] * (i % 3 + 1)
            )
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def nwb_series(traces: np.ndarray) -> dict[str, dict[str, dict[str, tuple[np.ndarray, range]]]]:
    """Convention to container to series to values and ROIs, as plain files, neuroconv and suite2p have them."""
    fluorescence, neuropil, every = 100 + traces, np.full_like(traces, 40), range(CELLS)
    neuropil[::2] = 20 + np.arange(CELLS)  # of each cell another, so that a mistaken one is found
    planes = {"plane0": range(2), "plane1": range(3, CELLS)}
    neuroconv = {"RoiResponseSeries": (fluorescence, every), "Neuropil": (neuropil, every)}
    return {
        "df_over_f": {"DfOverF": {"traces": (traces, every)}},
        "fluorescence": {"Fluorescence": {"traces": (fluorescence, every), "Neuropil": (neuropil, every)}},
        "neuroconv": {"Fluorescence": {**neuroconv, "Deconvolved": (traces, every), "Denoised": (traces, every)}},
        "both": {"Fluorescence": neuroconv, "DfOverF": {"RoiResponseSeries": (traces, every)}},
        "suite2p": {
            container: {name: (values[:, list(rois)], rois) for name, rois in planes.items()}
            for container, values in (("Fluorescence", fluorescence), ("Neuropil", neuropil), ("Deconvolved", traces))
        },
    }
