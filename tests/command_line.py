"""The command line, called in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from poyo_ssl_plugin.cli import main


def invoke(*arguments: object) -> Result:
    # The catching of errors is part of the group, so it must run; standalone mode is how a shell runs it.
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: object, expect: int = 0) -> str:
    """All that a command says, on one line; it must end with the exit code that is expected."""
    result = invoke(*arguments)
    output = result.output + (result.stderr if result.stderr_bytes else "")
    if result.exit_code != expect:
        raise AssertionError(f"exit code {result.exit_code}: {output}") from result.exception
    return " ".join(output.split())
