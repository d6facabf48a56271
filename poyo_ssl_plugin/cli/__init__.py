"""The command ``poyo-ssl``: a file for each group of commands.

What commands need of torch, Lightning or matplotlib they import themselves, so that ``--help`` is quick.
"""

from poyo_ssl_plugin.cli import (
    comparison_commands,
    import_commands,
    installation_commands,
    recording_commands,
    training_commands,
)
from poyo_ssl_plugin.cli.group import main

main.add_section("Recordings", (import_commands.import_recordings, *recording_commands.COMMANDS))
main.add_section("Training", training_commands.COMMANDS)
main.add_section("Comparisons", comparison_commands.COMMANDS)
main.add_section("Installation", installation_commands.COMMANDS)

__all__ = ["main"]
