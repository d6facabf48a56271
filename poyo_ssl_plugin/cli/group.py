"""The command itself: its sections, its errors, and what it says to somebody new."""

from __future__ import annotations

import difflib
import logging
import signal
import sys
from collections.abc import Iterable
from typing import Any

import click
from rich.logging import RichHandler

from poyo_ssl_plugin import __version__
from poyo_ssl_plugin.cli.terminal import console, errors, plain
from poyo_ssl_plugin.errors import PoyoSSLError, Terminated, terminate

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130

FIRST_HOUR = """\
poyo-ssl pretrains decoders of neural activity on the neurons that are predictable.

Your first hour:
  poyo-ssl demo                                      everything on simulated recordings, with a report
  poyo-ssl check DIR                                 what do your recordings hold?
  poyo-ssl score DIR --out table.csv                 how predictable is each neuron?
  poyo-ssl pretrain data.root=DIR diet.table=table.csv
  poyo-ssl finetune data.root=DIR diet.table=table.csv init_from=runs/pretrain/checkpoints/last.ckpt
  poyo-ssl compare root=DIR folds=5                  did pretraining help?

'poyo-ssl COMMAND --help' has an example of each command, 'poyo-ssl show KEY' explains a key of a recipe,
'poyo-ssl doctor' looks at the installation, and 'poyo-ssl --help' lists all commands.
"""


class Commands(click.Group):
    """Commands in sections. A user's mistake is told in one sentence, with exit code 2."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections: dict[str, list[str]] = {}

    def add_section(self, title: str, commands: Iterable[click.Command]) -> None:
        """Add commands under a title of the help."""
        for command in commands:
            self.add_command(command)
            self.sections.setdefault(title, []).append(str(command.name))

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(80)) for name in names])

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            close = difflib.get_close_matches(args[0], self.commands, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.commands)}"
            raise click.UsageError(f"no command {args[0]!r}; {hint}", context)
        return super().resolve_command(context, args)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except PoyoSSLError as error:
            errors.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
            sys.exit(EXIT_INPUT)
        except Terminated as stop:
            errors.print(plain(stop.message or "stopped on SIGTERM; start again to go on"), highlight=False)
            raise
        except KeyboardInterrupt:
            errors.print("stopped; start again, runs with resume=true, to go on", highlight=False)
            sys.exit(EXIT_INTERRUPTED)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="poyo-ssl")
@click.option("-v", "--verbose", is_flag=True, help="Also say what is usually left out.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Self-supervised pretraining for neural recordings, on torch_brain.

    Without a command it shows the way of a first hour.
    """
    handler = RichHandler(console=errors, show_path=False, show_time=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("poyo_ssl_plugin").setLevel(logging.DEBUG if verbose else logging.INFO)
    # Training saves its state first and has a handler of its own; all else just cleans up after itself.
    signal.signal(signal.SIGTERM, terminate)
    if context.invoked_subcommand is None:
        console.print(FIRST_HOUR, highlight=False, markup=False, soft_wrap=True, end="")
