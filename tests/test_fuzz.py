"""Damaged and odd recordings: the right answer, or one error that names the recording.

``python -m pytest -m slow tests/test_fuzz.py`` tries 2,000 cases; the fast set a few dozen.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from scipy import stats

from poyo_ssl_plugin.compat import interval
from poyo_ssl_plugin.data import PredictabilitySampler, Recordings, SelectUnits, StandardizeTraces, simulate
from poyo_ssl_plugin.data.check import unresponsive_files, usable_recordings
from poyo_ssl_plugin.errors import PoyoSSLError, RecordingError
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, score_dataset
from poyo_ssl_plugin.recordings import merge_intervals, split_intervals

RATE = 30.0
NAMES = ("sim_000", "sim_001")
TRACES = "calcium_traces/df_over_f"
GROUPS = ("calcium_traces", "rois", "train_domain", "domain", "session", "calcium_traces/domain", "drifting_gratings")


@pytest.fixture(scope="module")
def originals(tmp_path_factory) -> Path:
    """Two small recordings, of which the first is damaged."""
    return simulate(tmp_path_factory.mktemp("fuzz") / "a" / "b", n_recordings=2, n_units=6, minutes=4, seed=3)


def rewrite(file: h5py.File, name: str, values) -> None:
    del file[name]
    file[name] = values


def remove_group(file, draw):
    del file[draw(st.sampled_from(GROUPS))]


def remove_attribute(file, draw):
    group = draw(st.sampled_from(["calcium_traces", "session", "rois", "train_domain", "/"]))
    names = sorted(file[group].attrs)
    if names:
        del file[group].attrs[draw(st.sampled_from(names))]


def wrong_shape(file, draw):
    samples = file[TRACES][:]
    shape = draw(st.sampled_from(["transposed", "flat", "cube", "extra", "empty", "none"]))
    changed = {
        "transposed": samples.T,
        "flat": samples[:, 0],
        "cube": samples[None],
        "extra": np.c_[samples, samples[:, :1]],
        "empty": samples[:0],
        "none": samples[:, :0],
    }[shape]
    rewrite(file, TRACES, changed)


def wrong_type(file, draw):
    rewrite(
        file, TRACES, file[TRACES][:].astype(draw(st.sampled_from(["S8", "complex64", "int16", "float64", "bool"])))
    )


def missing_samples(file, draw):
    samples = file[TRACES][:]
    value = draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    first = draw(st.integers(0, len(samples) - 1))
    last = draw(st.integers(first, len(samples)))
    units = draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))
    samples[first:last, units] = value
    rewrite(file, TRACES, samples)


def constant_neurons(file, draw):
    samples = file[TRACES][:]
    samples[:, draw(st.lists(st.integers(0, 5), min_size=1, max_size=6))] = draw(st.floats(-1e6, 1e6, width=32))
    rewrite(file, TRACES, samples)


def huge_offset(file, draw):
    """Times since 1970, say, instead of since the start."""
    offset = draw(st.sampled_from([1e3, 1e6, 1e9, -1e9]))

    def shift(name, item):
        if isinstance(item, h5py.Dataset) and name.split("/")[-1] in ("start", "end", "timestamps"):
            item[...] = item[...] + offset

    file.visititems(shift)


def odd_ids(file, draw):
    # HDF5 holds ids as bytes; torch_brain decodes them as it was told to.
    ids = draw(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), min_size=6, max_size=6)
    )
    rewrite(file, "rois/id", np.array([unit.encode() for unit in ids]))


def duplicate_ids(file, draw):
    ids = file["rois/id"][:]
    a, b = draw(st.permutations(range(6)))[:2]
    ids[a] = ids[b]
    rewrite(file, "rois/id", ids)


def odd_intervals(file, draw):
    pairs = np.stack([file["train_domain/start"][:], file["train_domain/end"][:]], axis=1)
    kind = draw(
        st.sampled_from(["reversed", "overlapping", "backwards", "empty", "nan", "outside", "points", "uneven"])
    )
    changed = {
        "reversed": pairs[::-1],
        "overlapping": np.r_[pairs, pairs + 5.0],
        "backwards": pairs[:, ::-1],
        "empty": pairs[:0],
        "nan": np.where(np.arange(len(pairs))[:, None] == 1, np.nan, pairs),
        "outside": pairs + 1e5,
        "points": np.c_[pairs[:, 0], pairs[:, 0]],
    }.get(kind, pairs)
    rewrite(file, "train_domain/start", changed[:, 0].copy())
    rewrite(file, "train_domain/end", changed[: 2 if kind == "uneven" else None, 1].copy())


def other_rate(file, draw):
    rate = draw(st.sampled_from([10.0, 31.0, 0.0, -30.0, float("nan"), float("inf"), 1e9, 1e-9]))
    file["calcium_traces"].attrs["sampling_rate"] = rate
    samples = file[TRACES]
    if 1.0 <= rate < 1e6:
        file["calcium_traces/domain/end"][...] = file["calcium_traces/domain/start"][0] + (len(samples) - 1) / rate


def few_neurons(file, draw):
    n = draw(st.integers(0, 1))
    rewrite(file, TRACES, file[TRACES][:, :n])
    for name in list(file["rois"]):
        rewrite(file, f"rois/{name}", file[f"rois/{name}"][:n])


MUTATIONS = [
    value
    for name, value in list(globals().items())
    if getattr(value, "__code__", None) and (value.__code__.co_varnames[:2] == ("file", "draw"))
]


def read_all(folder: Path, name: str) -> tuple[PredictabilityTable | None, str]:
    """Score the recordings and make windows of the one in question: the table, or ``None`` and the error's message.

    Anything but a :class:`PoyoSSLError` that names the recording passes through. After one, the rest goes on.
    """
    try:
        dataset = Recordings(folder)
        table = score_dataset(dataset, workers=1)
        usable_recordings(dataset, [name])
        diet = Diet.from_thresholds(table, 1e9, 1e9)
        times = {name: interval(split_intervals(dataset.get_recording(name), "train"))}
        windows(folder, table, diet, times, name)
    except PoyoSSLError as error:
        assert name in str(error) or "diet" in str(error).lower(), f"does not name {name}: {error}"
        assert len(str(error)) > 20
        skip_it(folder, name)
        return None, str(error)
    return table, ""


def judge(folder: Path, name: str) -> str:
    """``"right"`` if the scores are those of scipy, or the message of the error."""
    table, message = read_all(folder, name)
    if table is None:
        return message
    assert_scores(folder, table, name)
    return "right"


def survive(folder: Path, name: str) -> str:
    """As :func:`judge`, but a flipped bit in a number is a number still: only errors can be told from right."""
    return "error" if read_all(folder, name)[0] is None else "read"


def windows(folder: Path, table, diet: Diet, times, name: str) -> None:
    """A second, and one frame."""
    keep, standardize = SelectUnits(diet), StandardizeTraces(table)
    dataset = Recordings(folder, fields=["calcium_traces"])
    for length in (1.0, 1 / RATE):
        sampler = PredictabilitySampler(sampling_intervals=times, window_length=length, diet=diet)
        try:
            index = next(iter(sampler))
        except ValueError as error:
            # torch_brain's own words for intervals that hold no window.
            assert "too short to sample" in str(error)
            return
        window = standardize(keep(dataset[index]))
        traces = window.calcium_traces.df_over_f
        assert traces.shape[1] == diet.count(name)
        assert not np.isnan(traces).any()


def skip_it(folder: Path, name: str) -> None:
    """With ``on_error="skip"`` the rest is scored and the recording listed, if it was the one at fault."""
    try:
        table = score_dataset(Recordings(folder), workers=1, on_error="skip")
    except PoyoSSLError as error:
        assert "diet" in str(error).lower() or name in str(error)
        return
    assert NAMES[1] in table.recordings
    skipped = table.provenance.get("skipped", {})
    assert (set(skipped) <= {name} and (name in skipped) != (name in table.recordings)) or not skipped


def assert_scores(folder: Path, table, name: str) -> None:
    """The scores of both recordings against scipy, on rows found in another way."""
    for recording in NAMES:
        with h5py.File(folder / f"{recording}.h5") as file:
            samples = file[TRACES][:].astype(float)
            start, rate = (
                float(file["calcium_traces/domain/start"][0]),
                float(file["calcium_traces"].attrs["sampling_rate"]),
            )
            pairs = np.stack([file["train_domain/start"][:], file["train_domain/end"][:]], axis=1)
        seconds = np.arange(len(samples)) / rate
        inside = np.zeros(len(samples), bool)
        for low, high in merge_intervals(pairs) - start:
            slack = 1e-3 / rate
            inside |= (seconds >= low - slack) & (seconds < high - slack)
        rows = samples[inside]
        of_recording = table["recording_id"] == recording
        assert of_recording.sum() == samples.shape[1]
        for i, row in enumerate(np.flatnonzero(of_recording)):
            x = rows[:, i]
            status = str(table["status"][row])
            if np.isinf(x).any():
                assert status == "not_finite"
                continue
            x = x[np.isfinite(x)]
            # A time within rounding of a row may fall on either side of it.
            assert abs(int(table["n_samples"][row]) - len(x)) <= len(pairs)
            if len(x) == 0:
                assert status == "all_nan"
            elif len(x) < 100:
                assert status == "too_short"
            elif np.ptp(x) == 0:
                assert status == "constant"
            elif table["n_samples"][row] == len(x) and status == "ok":
                assert table["skewness"][row] == pytest.approx(stats.skew(x), rel=1e-6, abs=1e-6)
                assert table["kurtosis"][row] == pytest.approx(stats.kurtosis(x), rel=1e-6, abs=1e-6)


def try_structured(originals: Path, mutations, data) -> str:
    with tempfile.TemporaryDirectory() as folder:
        for path in originals.glob("*.h5"):
            shutil.copy(path, folder)
        with h5py.File(Path(folder) / f"{NAMES[0]}.h5", "r+") as file:
            for mutate in mutations:
                # After a first damage there may be nothing left for a second.
                with suppress(KeyError, IndexError, OverflowError, TypeError, ValueError):
                    mutate(file, data.draw)
        outcome = judge(Path(folder), NAMES[0])
        event("right answer" if outcome == "right" else "one clear error")
        return outcome


COMMON = dict(
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)


@settings(max_examples=60, **COMMON)
@given(mutation=st.sampled_from(MUTATIONS), data=st.data())
def test_a_damaged_recording(originals, mutation, data):
    try_structured(originals, [mutation], data)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("POYO_SSL_FUZZ", "1400")), **COMMON)
@given(mutations=st.lists(st.sampled_from(MUTATIONS), min_size=1, max_size=2, unique=True), data=st.data())
def test_many_damaged_recordings(originals, mutations, data):
    try_structured(originals, mutations, data)


def damage_bytes(originals: Path, folder: Path, seed: int) -> Path:
    """The recordings with the first one cut off or with flipped bits; returns its file."""
    rng = np.random.default_rng(seed)
    for path in originals.glob("*.h5"):
        shutil.copy(path, folder)
    path = folder / f"{NAMES[0]}.h5"
    content = bytearray(path.read_bytes())
    if seed % 2:
        del content[int(rng.integers(0, len(content))) :]
    else:
        # Half of the flips hit the 24 KB that are not samples.
        for _ in range(int(rng.integers(1, 20))):
            place = int(rng.integers(0, len(content) if rng.random() < 0.3 else min(len(content), 24576)))
            content[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content))
    return path


# Damaged bytes may make the HDF5 library itself crash or hang, so that they are read in another process.
BYTES = """
import faulthandler, json, sys
sys.path[:0] = json.loads(sys.argv[2])
import tempfile, traceback
from pathlib import Path
import test_fuzz
for seed in range(int(sys.argv[3]), int(sys.argv[4])):
    faulthandler.dump_traceback_later(test_fuzz.PATIENCE, exit=True)
    with tempfile.TemporaryDirectory() as folder:
        test_fuzz.damage_bytes(Path(sys.argv[1]), Path(folder), seed)
        try:
            outcome = test_fuzz.survive(Path(folder), test_fuzz.NAMES[0])
        except Exception:
            outcome = "BAD " + traceback.format_exc(limit=-6)
        print(json.dumps([seed, outcome]), flush=True)
"""
# Seconds after which a file counts as one that HDF5 does not come back from; a good one takes a fifth of one.
PATIENCE = 20


def damaged_bytes(originals: Path, first: int, last: int) -> dict[str, int]:
    """Read files with flipped or missing bytes, in processes that may die; what kills one must be found beforehand."""
    counts = {"read": 0, "error": 0, "found by the probe": 0}
    root = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    seed = first
    while seed < last:
        command = [sys.executable, "-c", BYTES, str(originals), json.dumps(root), str(seed), str(last)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        for line in done.stdout.splitlines():
            if line.startswith("["):
                seed, outcome = json.loads(line)
                assert outcome in counts, f"seed {seed}: {outcome}"
                counts[outcome] += 1
                seed += 1
        if done.returncode == 0:
            break
        # Only inside of the HDF5 library; our own code must not.
        assert done.returncode < 0 or ("Timeout (" in done.stderr and "/h5py/" in done.stderr), done.stderr[-2000:]
        assert_the_probe_finds(originals, seed)
        counts["found by the probe"] += 1
        seed += 1
    return counts


def assert_the_probe_finds(originals: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        damage_bytes(originals, Path(folder), seed)
        with pytest.raises(RecordingError, match=f"{NAMES[0]}.*HDF5 (did not come back|crashed)"):
            usable_recordings(Recordings(folder), timeout=PATIENCE / 4)
        assert usable_recordings(Recordings(folder), timeout=PATIENCE / 4, on_error="skip")[0] == [NAMES[1]], seed


def test_flipped_and_missing_bytes(originals):
    counts = damaged_bytes(originals, 0, 40)
    assert sum(counts.values()) == 40 and counts["error"] > 10


@pytest.mark.slow
def test_many_flipped_and_missing_bytes(originals, capsys):
    counts = damaged_bytes(originals, 1000, 1600)
    with capsys.disabled():
        print(f"\n600 files with damaged bytes: {counts}")
    assert sum(counts.values()) == 600 and counts["found by the probe"] <= 6


@pytest.mark.skipif(h5py.version.hdf5_version != "2.0.0", reason="only of HDF5 2.0.0 is known that it hangs on these")
def test_the_probe_finds_what_hdf5_hung_on(originals, tmp_path):
    """Two files of the slow set, which sees to it that none is missed whatever HDF5 does with them."""
    paths = {}
    for seed in (1248, 1562):
        (tmp_path / str(seed)).mkdir()
        paths[str(seed)] = damage_bytes(originals, tmp_path / str(seed), seed)
    found = unresponsive_files(paths, timeout=2)
    assert set(found) == set(paths)
    assert all("did not come back" in reason for reason in found.values())
