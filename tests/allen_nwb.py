"""Write simulated recordings as NWB files in the layout of the Allen Brain Observatory.

``allensdk.core.brain_observatory_nwb_data_set.BrainObservatoryNwbDataSet`` reads them, so that the real
pipeline can be tested without a download. Only what it reads is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from poyo_ssl_plugin.simulation import make_movie, make_recording

PIPELINE = "processing/brain_observatory_pipeline"
TEMPLATE_SHAPE = (76, 152)
BLANK_EVERY = 20


def write_session(
    raw_dir: Path, session_id: int, *, cre_line: str = "Sst-IRES-Cre", depth: int = 275, n_units: int = 20
) -> Any:
    """Write ``raw_dir/ophys_experiment_data/<session_id>.nwb``, where AllenSDK's cache would put it.

    A session A of 8 minutes: gratings (every 20th a blank sweep), movies one and three, spontaneous.

    Returns:
        The simulated recording that was written.
    """
    rng = np.random.default_rng(session_id)
    movie = make_movie(0)
    recording = make_recording(str(session_id), cre_line.replace("-", "_"), n_units, 8.0, movie, rng)
    path = raw_dir / "ophys_experiment_data" / f"{session_id}.nwb"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, text in _metadata(session_id, cre_line, depth).items():
            # AllenSDK tells strings by their numpy type, which only those of fixed length have.
            file[name] = np.bytes_(text)
        file["general/generated_by"] = np.array([b"pipeline", b"3.0"])
        _activity(file, recording, rng)
        _stimuli(file, recording)
        template = np.repeat(np.arange(900, dtype=np.uint8)[:, None], np.prod(TEMPLATE_SHAPE), axis=1)
        file.create_dataset(
            "stimulus/templates/natural_movie_one_image_stack/data",
            data=template.reshape(900, *TEMPLATE_SHAPE),
            compression="gzip",
        )
    return recording


def write_experiments(raw_dir: Path, sessions: dict[int, tuple[str, str]]) -> None:
    """Write the table of experiments that AllenSDK caches.

    Args:
        raw_dir: Where AllenSDK's manifest is.
        sessions: Cre line and session type by session id.
    """
    table = [
        {
            "id": session_id,
            "imaging_depth": 275,
            "targeted_structure": {"acronym": "VISp"},
            "specimen": {
                "name": f"{cre_line}-{session_id}",
                "donor": {
                    "external_donor_name": str(session_id),
                    "transgenic_lines": [{"name": cre_line, "transgenic_line_type_name": "driver"}],
                    "date_of_birth": "2016-01-01T00:00:00Z",
                },
            },
            "date_of_acquisition": "2016-04-10T00:00:00Z",
            "experiment_container_id": session_id + 1,
            "experiment_container": {"failed": False},
            "stimulus_name": session_type,
        }
        for session_id, (cre_line, session_type) in sessions.items()
    ]
    raw_dir.mkdir(parents=True, exist_ok=True)
    (raw_dir / "ophys_experiments.json").write_text(json.dumps(table))


def _metadata(session_id: int, cre_line: str, depth: int) -> dict[str, str]:
    return {
        "general/subject/age": "100 days",
        "general/subject/sex": "male",
        "general/subject/genotype": f"{cre_line}/wt;Ai148(TIT2L-GC6f-ICL-tTA2)/wt",
        "general/optophysiology/imaging_plane_1/imaging depth": f"{depth} microns",
        "general/optophysiology/imaging_plane_1/location": "VISp",
        "general/optophysiology/imaging_plane_1/excitation_lambda": "910 nanometers",
        "general/optophysiology/imaging_plane_1/indicator": "GCaMP6f",
        "general/session_id": str(session_id),
        "general/experiment_container_id": str(session_id + 1),
        "general/devices/2-photon microscope": "CAM2P.2. Nikon A1R-MP Please see the whitepaper",
        "general/fov": "400x400 microns (512 x 512 pixels)",
        "general/session_type": "three_session_A",
        "general/specimen_name": f"{cre_line}-1",
        "session_start_time": "Fri Feb  5 12:00:00 2016",
    }


def _activity(file: h5py.File, recording: Any, rng: np.random.Generator) -> None:
    traces = np.asarray(recording.calcium_traces.df_over_f).T
    timestamps = np.asarray(recording.calcium_traces.timestamps)
    for name in ("DfOverF", "Fluorescence"):
        file[f"{PIPELINE}/{name}/imaging_plane_1/data"] = traces
        file[f"{PIPELINE}/{name}/imaging_plane_1/timestamps"] = timestamps
    ids = 10_000 * int(recording.session.id) + np.arange(len(traces))
    segmentation = f"{PIPELINE}/ImageSegmentation"
    file[f"{segmentation}/roi_ids"] = ids
    file[f"{segmentation}/cell_specimen_ids"] = ids + 1
    file[f"{segmentation}/imaging_plane_1/roi_list"] = np.array([f"ROI_{i:03d}".encode() for i in range(len(ids))])
    for i in range(len(ids)):
        mask = np.zeros((64, 64), np.uint8)
        row, column = rng.integers(0, 56, 2)
        mask[row : row + 8, column : column + 8] = 1
        file[f"{segmentation}/imaging_plane_1/ROI_{i:03d}/img_mask"] = mask
    file[f"{PIPELINE}/BehavioralTimeSeries/running_speed/data"] = rng.normal(0, 3, len(timestamps))
    file[f"{PIPELINE}/BehavioralTimeSeries/running_speed/timestamps"] = timestamps


def _stimuli(file: h5py.File, recording: Any) -> None:
    """Stimulus tables, whose times are imaging frames."""
    rate = float(recording.calcium_traces.sampling_rate)
    last = len(recording.calcium_traces.df_over_f) - 1

    def frames(start: Any, end: Any) -> np.ndarray:
        return np.minimum(np.rint(np.column_stack([start, end]) * rate), last)

    def present(name: str, data: np.ndarray, times: np.ndarray, **more: Any) -> None:
        for key, value in {"data": data, "frame_duration": times, **more}.items():
            file[f"stimulus/presentation/{name}_stimulus/{key}"] = value

    gratings, movie = recording.drifting_gratings, recording.natural_movie_one
    blank = np.arange(len(gratings)) % BLANK_EVERY == BLANK_EVERY - 1
    columns = [np.where(blank, np.nan, gratings.temporal_frequency), np.where(blank, np.nan, gratings.orientation)]
    features = np.array([b"temporal_frequency", b"orientation", b"blank_sweep"])
    present(
        "drifting_gratings",
        np.column_stack([*columns, blank]),
        frames(gratings.start, gratings.end),
        features=features,
    )
    present("natural_movie_one", np.asarray(movie.frame), frames(movie.start, movie.end))
    # The simulation has no movie three, which a session A has: the end of the spontaneous time is taken.
    start, end = recording.spontaneous_domain.start[0], recording.spontaneous_domain.end[0]
    edges = np.linspace(end - 10, end - 1, 271)
    present("natural_movie_three", np.arange(270), frames(edges[:-1], edges[1:]))
    present("spontaneous", np.array([1, -1]), frames([start + 1, end - 12], [start + 1, end - 12]))
