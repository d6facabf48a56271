"""Commands about the installation: doctor, register, pipeline-dir."""

from __future__ import annotations

import click

from poyo_ssl_plugin.cli.terminal import print_table, say


@click.command()
def doctor() -> None:
    """What is installed, what is missing, and what to do next.

    \b
    Example:
      poyo-ssl doctor
    """
    from poyo_ssl_plugin.doctor import diagnose, next_step

    findings = diagnose()
    print_table(("what", "found", "to do"), ((finding.what, finding.found, finding.remedy) for finding in findings))
    say(f"next: {next_step(findings)}")


@click.command()
@click.option("--undo", is_flag=True, help="Remove what this command wrote.")
def register(undo: bool) -> None:
    """Make the command 'brainsets' find the pipeline of this package.

    Then 'brainsets prepare allen_brain_observatory' and 'brainsets list' know it.
    Writes one link into the folder of torch_brain's (or brainsets') own pipelines. Without it,
    brainsets prepare "$(poyo-ssl pipeline-dir)" --local does the same.

    \b
    Example:
      poyo-ssl register
    """
    from poyo_ssl_plugin.register import register_pipeline, unregister_pipeline

    say(unregister_pipeline() if undo else register_pipeline())


@click.command("pipeline-dir")
def pipeline_dir() -> None:
    """Print the folder of the pipeline.

    \b
    Example:
      brainsets prepare "$(poyo-ssl pipeline-dir)" --local
    """
    from poyo_ssl_plugin.register import PIPELINE_DIR

    click.echo(PIPELINE_DIR)


COMMANDS = (doctor, register, pipeline_dir)
