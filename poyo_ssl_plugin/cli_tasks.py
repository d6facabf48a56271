"""``poyo-ssl tasks``: what can be decoded from the recordings of a folder."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
def tasks(folder: Path) -> None:
    """What the recordings in DIR let you decode, and what to write for it."""
    from rich.console import Console
    from rich.table import Table

    from poyo_ssl_plugin.data import TASKS, Recordings, Task, tasks_of

    dataset = Recordings(folder)
    found: dict[Task, int] = {}
    for name in dataset.recording_ids:
        for task in tasks_of(dataset.get_recording(name)):
            found[task] = found.get(task, 0) + 1
    rows = Table("task", "kind", "from", "recordings", "write", title=f"{len(dataset.recording_ids)} recordings")
    for task, count in found.items():
        kind = "" if task.kind == "classification" else f", kind: {task.kind}"
        declared = f"'task={{name: {task.name}, source: {task.source}, label: {task.label}{kind}}}'"
        write = f"task={task.name}" if task.name in TASKS else declared
        n_classes = f", {len(task.classes)} classes" if task.classes else ""
        rows.add_row(task.name, f"{task.kind}{n_classes}", f"{task.source}.{task.label}", str(count), write)
    if not found:
        click.echo(f"{folder}: its recordings have no labels; import them with --trials or --series")
        return
    # What is to be written is copied from here: not folded where the output is a file.
    Console(width=None if sys.stdout.isatty() else 200).print(rows)
