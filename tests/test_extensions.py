"""A separate distribution adds a statistic, a diet and a mask by its entry points alone."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import run

from poyo_ssl_plugin import MaskedLatentReconstruction, score_dataset
from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import get_task
from poyo_ssl_plugin.errors import DietError, ExtensionError, PoyoSSLError, RecipeError
from poyo_ssl_plugin.extensions import KINDS, extension_names, load_extension
from poyo_ssl_plugin.objectives import LatentLayout, get_mask
from poyo_ssl_plugin.predictability import PredictabilityTable, make_diet, statistic_names
from poyo_ssl_plugin.predictability.registered_statistics import find_statistic
from poyo_ssl_plugin.training import pretrain

SOURCE = Path(__file__).parent / "extension_dist"
MODULE = "poyo_ssl_extension_example"
DOCS = Path(__file__).resolve().parents[1] / "docs" / "ecosystem.md"


def test_nothing_is_there_unless_it_is_installed():
    for kind in KINDS:
        assert load_extension(kind, "active") is None
    assert "active_fraction" not in statistic_names()


def test_names_are_known_before_anything_is_imported(installed):
    assert extension_names("diets") == ["active"] and "active_fraction" in statistic_names()
    assert MODULE not in sys.modules


def test_a_statistic(installed, dataset):
    table = score_dataset(dataset, statistics=["active_fraction"])
    data = dataset.get_recording("sim_000")
    signal, clock = np.asarray(data.calcium_traces.df_over_f), data.calcium_traces
    times = np.arange(len(signal)) / clock.sampling_rate + clock.domain.start[0]
    inside = np.zeros(len(times), bool)
    for start, end in zip(data.train_domain.start, data.train_domain.end):
        inside |= (times >= start - 1e-9) & (times < end - 1e-9)
    np.testing.assert_allclose(table["active_fraction"][:20], (signal[inside] > 0.5).mean(axis=0))


def test_a_diet_and_a_mask_in_a_run(installed, sim_dir, tmp_path):
    run("score", sim_dir, "--out", tmp_path / "t.csv", "--statistic", "active_fraction")
    diet = make_diet(tmp_path / "t.csv", "active", minimum=0.05)
    table = PredictabilityTable.load(tmp_path / "t.csv")
    assert 0 < len(diet) == (table["active_fraction"] >= 0.05).sum() < 60
    overrides = [f"data.root={sim_dir}", f"diet.table={tmp_path / 't.csv'}", f"out_dir={tmp_path / 'run'}"]
    choice = ["diet=all", "diet.rule=active", "+diet.minimum=0.05", "ssl.mask=every_other_step", "model=tiny"]
    quick = ["trainer.max_steps=1", "trainer.progress=false", "trainer.tensorboard=false", "data.batch_size=4"]
    result = pretrain(compose_recipe("pretrain", overrides=[*overrides, *choice, *quick]))
    assert np.isfinite(result.metrics["valid/masked"])


def test_a_mask(installed):
    hidden = get_mask("every_other_step")(LatentLayout(2, 4, 2, 8), 0.5, None)
    assert hidden.dtype == torch.bool and hidden[0, :, 0].int().tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert MaskedLatentReconstruction(8, mask="every_other_step").mask is get_mask("every_other_step")


def test_a_task(installed):
    assert get_task("contrast").source == "drifting_gratings"
    with pytest.raises(RecipeError, match="unknown task 'contrst'; there are .*contrast"):
        get_task("contrst")


def test_one_that_cannot_be_imported(installed, dataset):
    with pytest.raises(ExtensionError, match=r"'broken' of poyo-ssl-extension-example .*ModuleNotFoundError.*repair"):
        score_dataset(dataset, statistics=["broken"])
    with pytest.raises(ExtensionError, match="'not_callable' of .* is not callable but float"):
        get_mask("not_callable")
    # The others work all the same.
    assert score_dataset(dataset, statistics=["active_fraction"]).columns[-2:]


def test_two_distributions_of_one_name(installed):
    other = installed / "another_one-1.0.dist-info"
    shutil.copytree(installed / "poyo_ssl_extension_example-1.0.dist-info", other)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: another-one\nVersion: 1.0\n")
    assert load_extension("diets", "active")  # the same object, offered twice
    points = other / "entry_points.txt"
    points.write_text(points.read_text().replace(":active", ":LEVEL"))
    with pytest.raises(ExtensionError, match="'active' is offered by another-one .* and poyo-ssl-extension-example"):
        load_extension("diets", "active")


def test_unknown_names_list_what_others_offer(installed, table):
    with pytest.raises(DietError, match="unknown diet rule 'actve'.*not_cre_lines, active"):
        make_diet(table, "actve")
    with pytest.raises(RecipeError, match="unknown mask 'x'.*every_other_step"):
        get_mask("x")
    with pytest.raises(PoyoSSLError, match="unknown statistic 'x'.*active_fraction"):
        find_statistic("x")


def test_scoring_with_one_still_needs_no_torch(installed):
    code = (
        "import sys; from poyo_ssl_plugin.predictability.registered_statistics import find_statistic; "
        "find_statistic('active_fraction')(3); assert 'torch' not in sys.modules"
    )
    package = Path(inspect.getfile(main.callback)).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": f"{package}:{installed}"})


def test_the_documentation_shows_these_very_examples(installed):
    example = __import__(MODULE)
    text = DOCS.read_text()
    for shown in (example.ActiveFraction, example.active, example.every_other_step, example.contrast):
        assert inspect.getsource(shown).strip() in text
    for line in (SOURCE / "pyproject.toml").read_text().splitlines():
        if line.startswith("[project.entry-points"):
            assert line in text
