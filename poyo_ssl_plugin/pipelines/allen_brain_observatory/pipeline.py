# /// brainset-pipeline
# python-version = "3.11"
# dependencies = [
#   "setuptools==80.9.0",
#   "statsmodels==0.14.6",
#   "allensdk==2.16.2",
#   "psycopg2-binary==2.9.10",
# ]
# ///
"""Prepare the Allen Brain Observatory, with movie frames, the paper's splits and its two halves.

Run by ``brainsets prepare allen_brain_observatory``. What torch_brain's own Allen pipeline extracts it
extracts; ``docs/pipeline.md`` lists what this one adds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from ray import cloudpickle

# brainsets loads this file by its path, not as part of a package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import allen_brain_observatory
from allen_brain_observatory import paper, stimulus_movie, stock

if TYPE_CHECKING:
    from allensdk.core.brain_observatory_cache import BrainObservatoryCache, BrainObservatoryNwbDataSet
    from torch_brain.data import Data

stock_pipeline = stock.load_pipeline()

# brainsets prepares recordings in worker processes, which cannot import modules that were found by path.
for _module in (
    allen_brain_observatory,
    stock_pipeline,
    sys.modules[stock_pipeline.generate_train_valid_test_splits.__module__],
):
    cloudpickle.register_pickle_by_value(_module)

SESSIONS_FILE = "paper_sessions.csv"
# Stimulus, fractions of train, valid and test, and whether they are of every epoch or of the session.
SPLITS = (("drifting_gratings", paper.GRATINGS_FRACTIONS, True), ("natural_movie_one", paper.MOVIE_FRACTIONS, False))


def _parse_size(text: str) -> tuple[int, int]:
    try:
        return stimulus_movie.parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


parser = argparse.ArgumentParser(parents=[stock_pipeline.parser], conflict_handler="resolve")
parser.add_argument(
    "--movie-size", type=_parse_size, default="64x128", help="HEIGHTxWIDTH of the stored movie frames (64x128)"
)
parser.add_argument("--half", choices=paper.HALVES, help="only the Cre lines that the paper pretrains or fine-tunes on")
parser.add_argument(
    "--cre-line", action="append", default=[], help="only Cre lines that begin with this, such as Sst; repeatable"
)
parser.add_argument("--session-type", action="append", default=[], help="such as three_session_A; repeatable")


class Pipeline(stock_pipeline.Pipeline):  # type: ignore[name-defined]
    """torch_brain's Allen pipeline, and more; see the top of this file."""

    processed_dir: Path
    brainset_id = "allen_brain_observatory"
    parser = parser

    @classmethod
    def get_manifest(cls, raw_dir: Path, args: argparse.Namespace) -> pd.DataFrame:
        """torch_brain's list of good sessions, with Cre line, depth and half where these are known.

        They come from the Allen Institute's table of experiments, which is downloaded the first time a
        filter asks for it.
        """
        manifest = super().get_manifest(raw_dir, args)
        filters = bool(args.half or args.cre_line or args.session_type)
        cache = stock_pipeline.BrainObservatoryCache(manifest_file=raw_dir / "manifest.json")
        path = Path(cache.get_cache_path(None, cache.EXPERIMENTS_KEY))
        if not filters and not path.exists():
            return manifest
        manifest = manifest.join(_session_table(cache, path))
        manifest.drop(columns="session_id").to_csv(raw_dir / SESSIONS_FILE)
        print(f"Cre line, depth and half of every session: {raw_dir / SESSIONS_FILE}")
        return _filtered(manifest, args) if filters else manifest

    def download(self, manifest_item: Any) -> tuple[BrainObservatoryNwbDataSet, str]:
        """The NWB file of a session, from where torch_brain's Allen pipeline has put it if it has."""
        session_id = manifest_item.session_id
        name = Path("ophys_experiment_data") / f"{session_id}.nwb"
        shared = self.raw_dir.parent / stock.STOCK / name
        if shared.exists() and not (self.raw_dir / name).exists() and not self.args.redownload:
            print(f"Using {shared}")
            return stock_pipeline.BrainObservatoryNwbDataSet(shared), session_id
        return super().download(manifest_item)

    def process(self, download_output: tuple[BrainObservatoryNwbDataSet, str]) -> None:
        """Let the stock pipeline write the recording out of sight, extend it, and move it to its place."""
        nwb, session_id = download_output
        path = self.processed_dir / f"{session_id}.h5"
        if path.exists() and not self.args.reprocess:
            self.update_status("Skipped Processing")
            return
        self._store_movie(nwb)
        self._copy_sessions()
        with tempfile.TemporaryDirectory(dir=self.processed_dir, prefix=f".{session_id}.") as folder:
            written = self._process_stock(download_output, Path(folder))
            if written.exists():  # the stock pipeline leaves out sessions that AllenSDK cannot read
                self.update_status("Extending")
                os.replace(_extended(written), path)

    def _process_stock(self, download_output: tuple[BrainObservatoryNwbDataSet, str], folder: Path) -> Path:
        processed_dir, self.processed_dir = self.processed_dir, folder
        try:
            super().process(download_output)
        finally:
            self.processed_dir = processed_dir
        return folder / f"{download_output[1]}.h5"

    def _store_movie(self, nwb: BrainObservatoryNwbDataSet) -> None:
        if self.args.skip_stimuli:
            return
        self.update_status("Storing movie frames")
        path = self.processed_dir / stimulus_movie.FRAMES_FILE
        try:
            stimulus_movie.store_movie(
                path, self.args.movie_size, lambda: nwb.get_stimulus_template("natural_movie_one")
            )
        except KeyError:
            print(f"{nwb.nwb_file}: has no template of natural_movie_one; its frames are left to the next session")

    def _copy_sessions(self) -> None:
        source, target = self.raw_dir / SESSIONS_FILE, self.processed_dir / SESSIONS_FILE
        if source.exists():
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            shutil.copyfile(source, partial)
            os.replace(partial, target)


def _session_table(cache: BrainObservatoryCache, path: Path) -> pd.DataFrame:
    """Cre line, depth, area, session type and half of every session, by session id."""
    # BrainObservatoryCache.get_ophys_experiments asks the server about eye tracking each time, so it never
    # works offline; this is the cached half of it.
    try:
        experiments = cache.api.get_ophys_experiments(path=str(path), strategy="lazy", **cache.cache_json())
    except OSError as error:
        raise SystemExit(
            f"The Allen Institute's table of experiments cannot be had ({error}), and without it sessions cannot be "
            f"chosen by Cre line or type. Run this once with a network; it is kept in {path}."
        ) from None
    table = pd.DataFrame(cache.api.filter_ophys_experiments(experiments, simple=True))
    table = table.set_index(table["id"].astype(str))
    table["half"] = [paper.half_of(line) if line else None for line in table["cre_line"]]
    table["depth_class"] = table["imaging_depth"].map(paper.depth_class)
    columns = ["cre_line", "half", "imaging_depth", "depth_class", "targeted_structure", "session_type"]
    # Numbers that may be missing, and are whole where they are not.
    whole = {"imaging_depth": "Int64", "experiment_container_id": "Int64"}
    return table[[*columns, "experiment_container_id"]].astype(whole).rename_axis("id")


def _filtered(manifest: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    keep = manifest["cre_line"].notna()
    if args.half:
        keep &= manifest["half"] == args.half
    if args.cre_line:
        keep &= manifest["cre_line"].fillna("").str.startswith(tuple(args.cre_line))
    if args.session_type:
        keep &= manifest["session_type"].isin(args.session_type)
    if not keep.any():
        lines, kinds = (sorted(manifest[name].dropna().unique()) for name in ("cre_line", "session_type"))
        raise SystemExit(f"No session is left. Cre lines: {', '.join(lines)}. Session types: {', '.join(kinds)}.")
    return manifest[keep]


def _extended(path: Path) -> Path:
    """Write the recording at ``path`` with what this pipeline adds; returns the new file."""
    with h5py.File(path, "r") as file:
        data = stock_pipeline.Data.from_hdf5(file, lazy=False)
    data.brainset = stock_pipeline.BrainsetDescription(
        id=Pipeline.brainset_id,
        origin_version="unknown",
        derived_version="1.0.0",
        source="https://observatory.brain-map.org/visualcoding/",
        description=f"{stock.STOCK} with the splits, halves and movie frames of arXiv 2510.18516.",
    )
    data.paper = stock_pipeline.Data(
        half=paper.half_of(data.subject.cre_line), depth_class=paper.depth_class(data.device.imaging_depth)
    )
    for part, times in _paper_split(data).items():
        setattr(data, f"paper_{part}_domain", stock_pipeline.Interval(times[:, 0].copy(), times[:, 1].copy()))
    extended = path.with_suffix(".extended.h5")
    # The stock pipelines of the earlier generation bring the functions that write dates.
    options = {name: value for name, value in vars(stock_pipeline).items() if name == "serialize_fn_map"}
    with h5py.File(extended, "w") as file:
        data.to_hdf5(file, **options)
    return extended


def _paper_split(data: Data) -> dict[str, np.ndarray]:
    """Train, valid and test times of the stimuli of the paper that the session has, by part."""
    parts = {part: [np.empty((0, 2))] for part in paper.PARTS}
    for name, fractions, per_epoch in SPLITS:
        if name not in data.keys():
            continue
        shown = getattr(data, name)
        start, end = np.asarray(shown.start), np.asarray(shown.end)
        if "repeat" in shown.keys():
            start, end = paper.movie_repeats(start, end, np.asarray(shown.repeat))
        epoch = paper.epoch_of(start, np.asarray(getattr(data, f"{name}_domain").start))
        for part, times in paper.split_items(start, end, epoch, fractions, per_epoch=per_epoch).items():
            parts[part].append(times)
    joined = {part: np.concatenate(times) for part, times in parts.items()}
    return {part: times[np.argsort(times[:, 0])] for part, times in joined.items() if len(times)}
