"""What the doctor finds, and what it says to do."""

from __future__ import annotations

import sys

import pytest
import torch
from click.testing import CliRunner

from poyo_ssl_plugin import doctor
from poyo_ssl_plugin.cli import main
from poyo_ssl_plugin.compat import GENERATION


def found(what: str) -> doctor.Finding:
    return next(finding for finding in doctor.diagnose() if finding.what == what)


def test_a_healthy_environment_has_versions_and_nothing_to_do():
    said = {finding.what: finding for finding in doctor.diagnose()}
    assert {"poyo_ssl_plugin", "torch", "torch_brain", "lightning", "hydra-core", "device", "attention"} <= set(said)
    assert said["torch"].found == torch.__version__
    assert said["torch_brain generation"].found.startswith(GENERATION)
    assert "diet, finetune, model, ssl" in said["Hydra"].found
    for what in ("torch_brain generation", "recipes", "Hydra", "attention"):
        assert said[what].remedy == "", what


def test_it_says_which_build_of_torch_it_is(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.13.0+cu130")
    assert doctor.Finding("torch", "2.13.0+cu130") in doctor.diagnose()


def test_the_command_prints_it():
    result = CliRunner().invoke(main, ["doctor"], env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "torch_brain generation" in result.output and "to do" in result.output
    assert "next: " in result.output.splitlines()[-1]


def test_it_ends_with_the_next_step():
    fine, gpu = doctor.Finding("Hydra", "fine"), doctor.Finding("device", "CPU", "get a GPU")
    assert "poyo-ssl demo" in doctor.next_step([fine, gpu])
    assert doctor.next_step([gpu, doctor.Finding("Hydra", "broken", "reinstall")]) == "Hydra: reinstall"


def test_a_mixture_of_generations(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: name == "brainsets")
    if GENERATION == "0.2":
        assert found("torch_brain generation").remedy.endswith("pip uninstall brainsets")
    else:
        assert found("torch_brain generation").remedy == ""


def test_torch_brain_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "poyo_ssl_plugin.compat", None)
    finding = doctor._generation()
    assert "cannot be imported" in finding.found and "pip install" in finding.remedy


def test_hydra_that_does_not_see_the_plugin(monkeypatch):
    from hydra.core.plugins import Plugins

    monkeypatch.setattr(Plugins.instance(), "plugin_type_to_subclass_list", {})
    finding = found("Hydra")
    assert "does not see" in finding.found and "hydra.searchpath=[file://" in finding.remedy


def test_extensions(installed):
    findings = [finding for finding in doctor.diagnose() if finding.what.startswith("further")]
    assert ("further diets", "active", "") in [(f.what, f.found, f.remedy) for f in findings]
    broken = next(f for f in findings if f.found == "broken is broken")
    assert "a_package_that_nobody_has" in broken.remedy and "poyo-ssl-extension-example" in broken.remedy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_kernels_on_a_gpu():
    assert "memory-efficient" in doctor._cuda_kernels()
