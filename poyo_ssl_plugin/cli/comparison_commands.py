"""Commands that compare many runs: demo, compare, scale, reproduce."""

from __future__ import annotations

from pathlib import Path

import click

from poyo_ssl_plugin.cli.terminal import errors, print_results, print_table, say

_preset = click.option("--preset", help="Settings to start from: small (a minute), report (an hour) and others.")
_ray = click.option(
    "--ray", is_flag=True, help="Do the runs on a Ray cluster (RAY_ADDRESS), or without one on all cores here."
)


@click.command()
@click.option("--out", "out_dir", type=click.Path(path_type=Path), default=Path("runs/demo"), show_default=True)
@click.option("--recordings", type=click.IntRange(min=3), default=6, show_default=True, help="Simulated recordings.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Fine-tuning seeds per arm.")
@click.option("--processes", type=click.IntRange(min=0), default=0, show_default="one per core", help="Runs at once.")
@_ray
def demo(out_dir: Path, recordings: int, seeds: int, processes: int, ray: bool) -> None:
    """Everything on simulated recordings, from scores to a report.

    Pretrains on the predictable neurons of some animals, then decodes the direction of gratings from the
    unpredictable neurons of other animals: pretrained, adapted to their unlabelled time, and from scratch.
    Takes a few minutes on two cores.

    \b
    Example:
      poyo-ssl demo --out runs/demo
    """
    from poyo_ssl_plugin.compare.demo import run_demo
    from poyo_ssl_plugin.compare.progress import Stages

    with Stages(errors) as stage:
        summary = run_demo(out_dir, n_recordings=recordings, n_seeds=seeds, processes=processes, ray=ray, stage=stage)
    print_results(summary)
    say(f"report: {out_dir / 'report.html'}   results: {out_dir / 'results.json'}")


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_preset
@click.option("--list-arms", is_flag=True, help="Print the arms and stop.")
@_ray
def compare(overrides: tuple[str, ...], preset: str | None, list_arms: bool, ray: bool) -> None:
    """Did pretraining help on your recordings? A report.

    Ways of pretraining are compared with each other and with training from scratch. Every arm decodes the
    same neurons with the same budget, seeds and test trials. Finished runs are kept: start it again with one
    more arm or seed and only that is run. The presets 'small' and 'report' simulate recordings where no root
    is given; 'session' is for one recording, 'frames' reconstructs a movie.

    \b
    Keys, with their defaults:
      root=DIR                    the recordings              out_dir=runs/compare
      task=drifting_gratings      what is decoded             recordings=[]  these ids only, e.g. [ID,...]
      arms=[pretrained,scratch]   --list-arms prints all      seeds=[0,1,2]
      held_out=[]                 decode these recordings and pretrain on the others
      decode_fraction=1.0         without held_out: decode this part of the unpredictable neurons
      folds=0                     hold out repeats of the stimulus in so many folds
      pretrain_each_seed=false    one pretraining per seed    processes=0    runs at once, 0: one per core
      pretrain=[]  finetune=[]    overrides of those recipes, for all arms: [KEY=VALUE,...]
      allow_leak=false            accept that pretraining saw decoded neurons or test time; the results say where

    \b
    Example:
      poyo-ssl compare root=recordings task=natural_movie folds=5 'pretrain=[trainer.max_steps=2000]'
    """
    if list_arms:
        return _print_arms()
    from poyo_ssl_plugin.compare.progress import Stages
    from poyo_ssl_plugin.compare.report import report_comparison
    from poyo_ssl_plugin.compare.settings import comparison_from_overrides, prepare_recordings

    comparison, recordings = comparison_from_overrides([*overrides, *(["ray=true"] if ray else [])], preset)
    with Stages(errors) as stage:
        prepare_recordings(comparison.root, recordings, stage("simulating", 0))
        summary = report_comparison(comparison, title="Pretraining against training from scratch", stage=stage)
    print_results(summary)
    say(f"report: {comparison.out_dir}/report.html")


@click.command()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@_preset
@_ray
def scale(overrides: tuple[str, ...], preset: str | None, ray: bool) -> None:
    """The same over models, diets, recordings or labels.

    Writes a curve per arm with 95 % intervals, a test for a rise at every step, and what each model costs
    (parameters, floating-point operations). Finished runs are kept: start it again to go on.

    \b
    Keys, besides those of 'poyo-ssl compare':
      axis=model        values=[tiny,small,medium,large,xlarge], or values=['model=tiny model.dim=48',...]
      axis=diet         values=[0.1,0.25,0.5,0.75,1.0]: fractions of each arm's neurons
      axis=recordings   values=[1,2,4,8]: how many to pretrain on; needs held_out
      axis=labels       values=[0.125,0.25,0.5,1.0]: fractions of the labelled trials to fine-tune on

    \b
    Example:
      poyo-ssl scale axis=diet root=recordings task=natural_movie folds=5
    """
    from poyo_ssl_plugin.compare.progress import Stages
    from poyo_ssl_plugin.compare.scale import Scaling
    from poyo_ssl_plugin.compare.scale_report import report_scaling, scaling_header, scaling_rows, scaling_verdicts
    from poyo_ssl_plugin.compare.settings import prepare_recordings, read_settings

    scaling, recordings = read_settings(Scaling, "scale", preset, [*overrides, *(["ray=true"] if ray else [])])
    with Stages(errors) as stage:
        prepare_recordings(scaling.root, recordings, stage("simulating", 0))
        summary = report_scaling(scaling, stage=stage)
    print_table(scaling_header(summary), scaling_rows(summary), title=f"{summary.task} over {summary.axis}")
    for text in scaling_verdicts(summary):
        say(text)
    say(f"report: {scaling.out_dir}/report.html")


@click.command()
@click.argument("question", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", "out_dir", type=click.Path(path_type=Path), help="Folder to write to; runs/QUESTION by default.")
@click.option("--small", is_flag=True, help="Three steps a run: shows that all of it runs, and decides nothing.")
@click.option("--only", multiple=True, metavar="DATA_SET", help="Do only this data set of the question; repeatable.")
@click.option("--column", "columns", multiple=True, help="Do only this comparison of the question; repeatable.")
def reproduce(
    question: str | None,
    overrides: tuple[str, ...],
    out_dir: Path | None,
    small: bool,
    only: tuple[str, ...],
    columns: tuple[str, ...],
) -> None:
    """Rerun a page of results.

    Does every comparison behind the page and writes answer.md, with their values side by side and the planned
    differences, runs.csv, with the value of every run, and pretraining.csv. Without QUESTION it lists them. Finished
    runs are kept. Keys are those of 'poyo-ssl compare'.

    \b
    Example:
      poyo-ssl reproduce few_labels root=recordings
    """
    from poyo_ssl_plugin.compare.progress import Stages
    from poyo_ssl_plugin.compare.reproduce import get_question, question_names
    from poyo_ssl_plugin.compare.reproduce import reproduce as rerun
    from poyo_ssl_plugin.compare.settings import parse_overrides

    if question is None:
        rows = [(name, get_question(name).question) for name in question_names()]
        return print_table(("question", "it asks"), rows)
    asked, place = get_question(question), out_dir or Path("runs", question)
    with Stages(errors) as stage:
        rerun(asked, place, parse_overrides(overrides), only=only, columns=columns, small=small, stage=stage)
    say((place / "answer.md").read_text(encoding="utf-8"))


def _print_arms() -> None:
    from poyo_ssl_plugin.compare.arms import ARMS

    rows = []
    for arm in ARMS.values():
        pretrain = "none" if arm.pretrain is None else "\n".join(arm.pretrain) or "the recipe 'pretrain'"
        rows.append((arm.name, arm.title, pretrain, "\n".join(arm.finetune)))
    print_table(("arm", "what it is", "pretraining", "fine-tuning"), rows)


COMMANDS = (demo, compare, scale, reproduce)
