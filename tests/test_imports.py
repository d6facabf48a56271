from __future__ import annotations

import subprocess
import sys

import poyo_ssl_plugin


def loaded_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(' '.join(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_predictability_needs_neither_torch_nor_lightning():
    modules = loaded_after("import poyo_ssl_plugin.predictability")
    assert not modules & {"torch", "lightning", "torch_brain", "pandas", "matplotlib"}


def test_the_package_itself_needs_nothing_heavy():
    assert not loaded_after("import poyo_ssl_plugin") & {"torch", "lightning", "numpy", "h5py"}


def test_the_command_line_starts_without_torch():
    assert not loaded_after("import poyo_ssl_plugin.cli") & {"torch", "lightning", "matplotlib"}


def test_the_frame_decoder_needs_no_lightning():
    assert "lightning" not in loaded_after("from poyo_ssl_plugin import FrameLoss, SkipConnectionDecoder")


def test_training_changes_neither_warnings_nor_loggers_of_others():
    code = (
        "import logging, warnings, lightning\n"
        "before = logging.getLogger('lightning.pytorch').level\n"
        "import poyo_ssl_plugin.training.trainer as trainer\n"
        "assert logging.getLogger('lightning.pytorch').level == before\n"
        "assert not {f[1].pattern for f in warnings.filters if f[1]} & set(trainer._NOT_HERE)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_hydra_plugin_needs_no_torch():
    assert "torch" not in loaded_after("import hydra_plugins.poyo_ssl_searchpath")


def test_all_public_names_can_be_had():
    for name in poyo_ssl_plugin.__all__:
        assert getattr(poyo_ssl_plugin, name) is not None
    assert set(poyo_ssl_plugin.__all__) <= set(dir(poyo_ssl_plugin))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(poyo_ssl_plugin, "nonsense")
