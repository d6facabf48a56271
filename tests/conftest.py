"""Recordings that tests share: small simulated ones, and the real ones where they are at hand."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import command_process
import h5py
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from quick import quick

from poyo_ssl_plugin.compat import ArrayDict, Data, IrregularTimeSeries, write_recording
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, simulate
from poyo_ssl_plugin.predictability import PredictabilityTable, score_dataset

torch.set_num_threads(1)

# A distribution and an application of somebody else, which tests install and run.
collect_ignore = ["extension_dist", "stock_app"]

# Folder with data/ and tools/real_recordings.py; beside the checkout unless the variable says otherwise.
REAL = Path(os.environ.get("POYO_SSL_REAL_DATA", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def sim_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three simulated recordings of 20 neurons and 5 minutes: excitatory, Pvalb, excitatory."""
    folder = tmp_path_factory.mktemp("simulated")
    lines = ["Cux2_CreERT2", "Pvalb_IRES_Cre", "Rorb_IRES2_Cre"]
    return simulate(folder, n_recordings=3, n_units=20, minutes=5, cre_lines=lines, seed=1)


@pytest.fixture
def dataset(sim_dir: Path) -> Recordings:
    return Recordings(sim_dir)


@pytest.fixture(scope="session")
def table(sim_dir: Path) -> PredictabilityTable:
    return score_dataset(Recordings(sim_dir))


@pytest.fixture(scope="session")
def table_path(table: PredictabilityTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "table.csv"
    table.to_csv(path)
    return path


@pytest.fixture
def recipe(request, sim_dir: Path, table_path: Path, tmp_path: Path) -> Callable[..., DictConfig]:
    """Compose a quick recipe on the simulated recordings, written to ``tmp_path / name``.

    Its settings are the module's ``QUICK``, or those of ``steps``. Fine-tuning is from scratch unless it is told
    where it starts.
    """

    def make(
        command: str, *overrides: str, name: str = "run", recipe: str | None = None, steps: int | None = None
    ) -> DictConfig:
        settings = request.module.QUICK if steps is None else quick(steps=steps)
        places = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={tmp_path / name}"]
        if command == "finetune" and recipe is None and not any(o.startswith("init_from=") for o in overrides):
            recipe = "scratch"
        return compose_recipe(command, recipe, [*settings, *places, *overrides])

    return make


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the published excerpts."""
    if not (REAL / "tools" / "real_recordings.py").is_file():
        pytest.skip("the real recordings are not here (set POYO_SSL_REAL_DATA)")
    return REAL / "data"


@pytest.fixture(scope="session")
def real_dir(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real recordings as brainsets HDF5."""
    folder = tmp_path_factory.mktemp("real")
    script = real_data.parent / "tools" / "real_recordings.py"
    subprocess.run([sys.executable, str(script), str(folder)], check=True, capture_output=True)
    return folder / "allen_visual_coding_ophys_2016"


@pytest.fixture(scope="session")
def spike_dir(sim_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated recordings with spikes of ``units`` in place of traces of ``rois``."""
    folder = tmp_path_factory.mktemp("spikes")
    rng = np.random.default_rng(0)
    for name in Recordings(sim_dir).recording_ids:
        with h5py.File(sim_dir / f"{name}.h5") as file:
            data = Data.from_hdf5(file)
            traces = np.asarray(data.calcium_traces.df_over_f)
            rate = np.clip(traces - np.median(traces, axis=0), 0, None)
            counts = rng.poisson(rate / rate.mean(axis=0) / 15)  # 2 Hz on average
            frame, unit = np.nonzero(counts)
            times = data.domain.start[0] + (frame + rng.uniform(size=len(frame))) / data.calcium_traces.sampling_rate
            order = np.argsort(times)
            kept = ("subject", "session", "brainset", "domain", "drifting_gratings", "natural_movie_one")
            parts = {key: getattr(data, key) for key in data.keys() if key in kept or key.endswith("_domain")}
            domain = data.domain.materialize()
            for part in parts.values():
                part.materialize()
            spikes = IrregularTimeSeries(
                timestamps=times[order], unit_index=unit[order].astype(np.int64), domain=domain
            )
            units = ArrayDict(id=np.asarray(data.rois.id).astype(str))
            write_recording(Data(domain=domain, **parts, spikes=spikes, units=units), folder / f"{name}.h5")
    return folder


@pytest.fixture(scope="session")
def spike_table_path(spike_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every unit of :func:`spike_dir`, scored on counts in bins."""
    path = tmp_path_factory.mktemp("spike_table") / "table.csv"
    score_dataset(Recordings(spike_dir), field="spikes", bin_width=0.1).to_csv(path)
    return path


@pytest.fixture(scope="session")
def small_movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of the movie, in small: enough to reconstruct, and soon done."""
    path = tmp_path_factory.mktemp("small_movie") / "movie.npz"
    image = np.random.default_rng(0).integers(0, 256, (90, 12, 16)).astype(np.uint8)
    np.savez(path, image=image, frame=np.r_[0:30, 300:330, 600:630])
    return path


@pytest.fixture(scope="session")
def forkserver() -> ForkServerContext:
    """Processes that begin with all imports done."""
    context = multiprocessing.get_context("forkserver")
    modules = ("cli", "compare.demo", "compare.single_run", "training")
    context.set_forkserver_preload(["command_process", *(f"poyo_ssl_plugin.{module}" for module in modules)])

    # Without this the first command would wait for the imports, and kills timed by it would come too late.
    warm = context.Process(target=int)
    warm.start()
    warm.join()
    return context


@pytest.fixture(scope="session")
def process(forkserver) -> Callable[..., BaseProcess]:
    """Start a command in a process of its own: what is watched or killed is work, not imports.

    What it says goes to a file.
    """

    def launch(arguments: list[str], said: str | Path = os.devnull) -> BaseProcess:
        process = forkserver.Process(target=command_process.run, args=(arguments, str(said)))
        process.start()
        return process

    return launch


@pytest.fixture(scope="session")
def unrendered() -> Callable[[], AbstractContextManager[None]]:
    """A context in which figures are put together but not rendered, which is half of the work of a small report."""

    @contextmanager
    def context() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            write = lambda figure, path, **_: Path(path).write_bytes(b"not rendered")  # noqa: E731
            patch.setattr("matplotlib.figure.Figure.savefig", write)
            yield

    return context


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The distribution in ``extension_dist``, as pip would install it, without needing a build backend here."""
    tomllib = pytest.importorskip("tomllib")
    source = Path(__file__).parent / "extension_dist"
    project = tomllib.loads((source / "pyproject.toml").read_text())["project"]
    module = project["name"].replace("-", "_")
    shutil.copytree(source / module, tmp_path / module)
    information = tmp_path / f"{module}-{project['version']}.dist-info"
    information.mkdir()
    header = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (information / "METADATA").write_text(header)
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in points.items()), ""]
    (information / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        del sys.modules[name]


@pytest.fixture
def traces() -> np.ndarray:
    """Five neurons for a minute at 10 Hz."""
    return np.random.default_rng(0).gamma(2.0, size=(600, 5)).astype(np.float32)


@pytest.fixture
def trials_csv(tmp_path: Path) -> Path:
    """Twenty trials of two seconds, three seconds apart, to the left and to the right."""
    path = tmp_path / "trials.csv"
    rows = [f"{3 * i},{3 * i + 2},{'lr'[i % 2]},{('train', 'valid', 'test')[(i > 9) + (i > 14)]}" for i in range(20)]
    path.write_text("start,end,side,part\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder to write to, not there yet."""
    return tmp_path / "out"
