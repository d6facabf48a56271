from __future__ import annotations

import subprocess
import sys

import pytest

import poyo_ssl_plugin


def python(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(
    ("statement", "unneeded"),
    [
        ("import poyo_ssl_plugin", "torch lightning numpy h5py"),
        ("import poyo_ssl_plugin.predictability", "torch lightning torch_brain pandas matplotlib"),
        ("import poyo_ssl_plugin.cli", "torch lightning matplotlib"),
        ("import hydra_plugins.poyo_ssl_searchpath", "torch"),
        ("import poyo_ssl_plugin.compare.executors", "torch lightning matplotlib"),  # as each worker does
    ],
)
def test_what_is_imported_needs_nothing_heavy(statement, unneeded):
    code = f"{statement}\nimport sys\nprint(' '.join(sorted(sys.modules)))"
    assert not {*python("-c", code).split()} & {*unneeded.split()}


def test_the_command_line_starts():
    assert "poyo-ssl" in python("-m", "poyo_ssl_plugin.cli", "--help")


def test_the_frame_decoder_needs_no_lightning_and_training_changes_neither_warnings_nor_loggers_of_others():
    python(
        "-c",
        "import logging, sys, warnings\n"
        "from poyo_ssl_plugin import FrameLoss, SkipConnectionDecoder\n"
        "assert 'lightning' not in sys.modules\n"
        "import lightning\n"
        "before = logging.getLogger('lightning.pytorch').level\n"
        "import poyo_ssl_plugin.training.trainer as trainer\n"
        "assert logging.getLogger('lightning.pytorch').level == before\n"
        "assert not {f[1].pattern for f in warnings.filters if f[1]} & set(trainer._NOT_HERE)",
    )


def test_all_public_names_can_be_had():
    for name in poyo_ssl_plugin.__all__:
        assert getattr(poyo_ssl_plugin, name) is not None
    assert set(poyo_ssl_plugin.__all__) <= set(dir(poyo_ssl_plugin))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(poyo_ssl_plugin, "nonsense")
