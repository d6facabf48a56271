"""Commands that train and test one model: pretrain, finetune, evaluate, export, show."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from poyo_ssl_plugin.cli.terminal import console, errors, print_results, print_table, say, wrote
from poyo_ssl_plugin.configuration import compose_recipe, recipe_names

if TYPE_CHECKING:
    from omegaconf import DictConfig


def _recipe_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """What 'pretrain' and 'finetune' have in common: a recipe, a folder of recipes, and overrides."""
    command = str(function.__name__)
    names = [name for name in recipe_names(command) if name != command]
    options = [
        click.option("--recipe", help=f"Another recipe: {', '.join(names)}, or a file of --recipe-dir."),
        click.option(
            "--recipe-dir",
            type=click.Path(path_type=Path, file_okay=False, exists=True),
            help="Folder of your own recipes.",
        ),
        click.option("--show", is_flag=True, help="Print the composed recipe and stop."),
        click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]..."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command()
@_recipe_command
def pretrain(recipe: str | None, recipe_dir: Path | None, show: bool, overrides: tuple[str, ...]) -> None:
    """Pretrain a model on the predictable neurons.

    \b
    What to give:
      data.root=DIR          folder of recordings
      diet.table=TABLE       from 'poyo-ssl score'; diet=all needs none

    \b
    Defaults that are often changed ('poyo-ssl show KEY' explains any key, --show prints all):
      diet=predictable       model=small         ssl=masked_latent
      data.batch_size=128    data.num_workers=0  trainer.max_steps=300
      out_dir=runs/pretrain  resume=false        seed=0

    \b
    Example:
      poyo-ssl pretrain data.root=recordings diet.table=table.csv model=medium
    """
    config = compose_recipe("pretrain", recipe, overrides, recipe_dir)
    if show:
        return _print_recipe(config)
    from poyo_ssl_plugin.compare.single_run import run_pretraining

    _one_speaks_for_all()
    summary = run_pretraining(config)
    before = {name: f"{value:.4f}" for name, value in summary["initial"].items()}
    rows = [
        (name.removeprefix("valid/"), before.get(name, ""), f"{after:.4f}")
        for name, after in summary["metrics"].items()
        if name.startswith("valid/")
    ]
    print_table(("held-out", "before", "after"), rows)
    say(f"diet {summary['diet']}")
    wrote(summary["checkpoint"], f"{config.out_dir}/results.json")
    table = config.diet.get("table") or "TABLE"
    say(f"next: poyo-ssl finetune data.root={config.data.root} diet.table={table} init_from={summary['checkpoint']}")


@click.command()
@_recipe_command
def finetune(recipe: str | None, recipe_dir: Path | None, show: bool, overrides: tuple[str, ...]) -> None:
    """Fine-tune a pretrained model on the other neurons, and test it.

    \b
    What to give:
      data.root=DIR  diet.table=TABLE  init_from=CHECKPOINT (--recipe scratch has none)

    \b
    Defaults that are often changed ('poyo-ssl show KEY' explains any key, --show prints all):
      task=drifting_gratings   seeds=[0,1,2]   trainer.max_steps=200   resume=false

    \b
    Example:
      poyo-ssl finetune --recipe natural_movie data.root=recordings diet.table=table.csv \\
          init_from=runs/pretrain/checkpoints/last.ckpt
    """
    config = compose_recipe("finetune", recipe or "drifting_gratings", overrides, recipe_dir)
    if show:
        return _print_recipe(config)
    from poyo_ssl_plugin.compare.progress import Stages
    from poyo_ssl_plugin.compare.single_run import run_finetuning

    _one_speaks_for_all()
    with Stages(errors) as stage:
        summary = run_finetuning(config, stage=stage)
    print_results(summary)
    wrote(f"{config.out_dir}/results.json")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), help="Also write the result as JSON.")
def evaluate(checkpoint: Path, overrides: tuple[str, ...], out: Path | None) -> None:
    """Test a fine-tuned CHECKPOINT on the test split of its recordings.

    Overrides change keys of its recipe, such as data.root=elsewhere.

    \b
    Example:
      poyo-ssl evaluate runs/finetune_drifting_gratings/seed0/checkpoints/last.ckpt
    """
    from poyo_ssl_plugin.compare.results import to_json
    from poyo_ssl_plugin.compare.single_run import run_evaluation
    from poyo_ssl_plugin.files import write_json

    summary = run_evaluation(checkpoint, overrides)
    print_results(summary)
    if out is not None:
        write_json(out, to_json(summary))
        wrote(out)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path), metavar="OUT.safetensors")
def export(checkpoint: Path, out: Path) -> None:
    """Write the weights of CHECKPOINT as safetensors.

    What only training needs is left out. The recipe, the vocabularies, and the neurons and times it was
    trained on go along as JSON in the file's metadata. 'init_from=OUT.safetensors' and 'poyo-ssl evaluate'
    take it like any checkpoint.

    \b
    Example:
      poyo-ssl export runs/pretrain/checkpoints/last.ckpt pretrained.safetensors
    """
    from poyo_ssl_plugin.models import read_checkpoint, write_safetensors

    write_safetensors(read_checkpoint(checkpoint), out)
    wrote(out)


@click.command()
@click.argument("key", default="")
def show(key: str) -> None:
    """Explain a KEY of the recipes: its meaning, default and options.

    Part of a key explains all keys under it; without one all keys are listed.

    \b
    Examples:
      poyo-ssl show trainer.max_steps
      poyo-ssl show model
    """
    from poyo_ssl_plugin.recipe_keys import COMMANDS as RECIPES
    from poyo_ssl_plugin.recipe_keys import explain, options

    rows = [(found.name, *(found.defaults.get(name, "-") for name in RECIPES), found.text) for found in explain(key)]
    leaves = [row for row in rows if any(row[1:])]
    print_table(("key", *(f"in {name}" for name in RECIPES), "meaning"), leaves)
    choices = options(key)
    if choices:
        print_table((f"{key}=", "what it is"), choices.items())


def _print_recipe(config: DictConfig) -> None:
    from omegaconf import OmegaConf

    click.echo(OmegaConf.to_yaml(config), nl=False)


def _one_speaks_for_all() -> None:
    """Of several processes that train together, only the first says what is not an error."""
    from poyo_ssl_plugin.distributed import is_main_process

    if not is_main_process():
        logging.getLogger("poyo_ssl_plugin").setLevel(logging.ERROR)
        console.quiet = True


COMMANDS = (pretrain, finetune, evaluate, export, show)
