"""What one generation of torch_brain writes the other reads.

Needs a Python of the other generation: give its path in ``POYO_SSL_OTHER_PYTHON``.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import poyo_ssl_plugin
from poyo_ssl_plugin.compat import GENERATION, DatasetIndex
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, simulate
from poyo_ssl_plugin.predictability import PredictabilityTable, score_dataset
from poyo_ssl_plugin.training import finetune, pretrain

OTHER = os.environ.get("POYO_SSL_OTHER_PYTHON")
PACKAGE = Path(poyo_ssl_plugin.__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not OTHER, reason="needs POYO_SSL_OTHER_PYTHON, of the other generation")

QUICK = ["model=tiny", "data.batch_size=8", "trainer.max_steps=2", "trainer.progress=false", "trainer.accelerator=cpu"]

WINDOW = """
import json, sys
from poyo_ssl_plugin.compat import DatasetIndex
from poyo_ssl_plugin.data import Recordings
data = Recordings(sys.argv[1])[DatasetIndex("sim_000", 30.0, 36.0)]
gratings = data.drifting_gratings
print(json.dumps({
    "traces": data.calcium_traces.df_over_f.astype(float).sum(axis=0).tolist(),
    "ids": data.units.id.astype(str).tolist(),
    "start": gratings.start.tolist(), "label": gratings.orientation_id.tolist(),
    "subject": str(data.subject.id), "line": str(data.subject.cre_line),
}))
"""


def other(*arguments: object) -> str:
    """Run the other generation's Python on this very package."""
    ran = subprocess.run(
        [str(OTHER), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        cwd=PACKAGE,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def command(*arguments: object) -> str:
    return other("-m", "poyo_ssl_plugin.cli", *arguments)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> Path:
    """Recordings that the other generation wrote."""
    folder = tmp_path_factory.mktemp("theirs")
    command("simulate", folder, "--recordings", 2, "--units", 12, "--minutes", 4, "--seed", 3)
    return folder


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    return simulate(tmp_path_factory.mktemp("ours"), n_recordings=2, n_units=12, minutes=4, seed=3)


def test_the_other_is_the_other():
    assert other("-c", "from poyo_ssl_plugin.compat import GENERATION; print(GENERATION)").strip() != GENERATION
    assert str(PACKAGE) in other("-c", "import poyo_ssl_plugin; print(poyo_ssl_plugin.__file__)")


def test_both_write_the_same_recordings_and_read_each_other_s(ours, theirs, tmp_path):
    tables = [score_dataset(Recordings(ours)), score_dataset(Recordings(theirs))]
    for folder in (ours, theirs):
        command("score", folder, "--out", tmp_path / f"{folder.name}.csv")
        tables.append(PredictabilityTable.load(tmp_path / f"{folder.name}.csv"))
    for table in tables[1:]:
        for column in table.columns:
            if table[column].dtype.kind == "f":
                np.testing.assert_allclose(table[column], tables[0][column], rtol=1e-12, err_msg=column)
            else:
                assert table[column].tolist() == tables[0][column].tolist(), column


@pytest.mark.parametrize("which", ["ours", "theirs"])
def test_windows_are_the_same(which, request):
    folder = request.getfixturevalue(which)
    there = json.loads(other("-c", WINDOW, folder))
    data = Recordings(folder)[DatasetIndex("sim_000", 30.0, 36.0)]
    np.testing.assert_array_equal(there["traces"], data.calcium_traces.df_over_f.astype(float).sum(axis=0))
    np.testing.assert_array_equal(there["start"], data.drifting_gratings.start)
    assert there["label"] == data.drifting_gratings.orientation_id.tolist()
    assert there["ids"] == data.units.id.astype(str).tolist() and there["line"] == data.subject.cre_line


def test_a_checkpoint_of_one_fine_tunes_in_the_other(theirs, tmp_path):
    table = tmp_path / "table.csv"
    command("score", theirs, "--out", table)
    common = [f"data.root={theirs}", f"diet.table={table}", *QUICK]
    command("pretrain", *common, f"out_dir={tmp_path / 'p'}", "diet=random")
    last = tmp_path / "p" / "checkpoints" / "last.ckpt"
    fine = [f"init_from={last}", f"out_dir={tmp_path / 'f'}", "diet=all", "allow_leak=true"]
    result = finetune(compose_recipe("finetune", "drifting_gratings", [*common, *fine]))
    assert not result.loaded.skipped and not result.loaded.fresh
    mine = pretrain(compose_recipe("pretrain", None, [*common, f"out_dir={tmp_path / 'q'}", "diet=random"]))
    fine = [f"init_from={mine.checkpoint}", f"out_dir={tmp_path / 'g'}", "diet=all", "allow_leak=true", "seeds=[0]"]
    command("finetune", *common, *fine)
    assert "accuracy" in json.loads((tmp_path / "g" / "results.json").read_text())["metric"]
