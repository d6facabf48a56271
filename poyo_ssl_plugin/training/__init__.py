"""Training with Lightning: modules, data modules, checkpoints and runs."""

from poyo_ssl_plugin.models import LoadReport, load_weights, model_state, read_checkpoint
from poyo_ssl_plugin.training.data import DietData, FinetuningData, PretrainingData
from poyo_ssl_plugin.training.decoding import Decoding, Metric, TestResult, decoding_kind, decoding_of, task_kind
from poyo_ssl_plugin.training.finetuning import Finetuning, RegressionFinetuning
from poyo_ssl_plugin.training.inputs import Inputs
from poyo_ssl_plugin.training.parsing import parse_recipe
from poyo_ssl_plugin.training.pretrained import pretrained_model
from poyo_ssl_plugin.training.pretraining import Pretraining
from poyo_ssl_plugin.training.recipe import FinetuneRecipe, PretrainRecipe, Recipe
from poyo_ssl_plugin.training.run import Prepared, evaluate, finetune, open_finetuned, prepare_finetuning, pretrain
from poyo_ssl_plugin.training.run_folder import RunRecord, RunResult

__all__ = [
    "Decoding",
    "DietData",
    "FinetuneRecipe",
    "Finetuning",
    "FinetuningData",
    "Inputs",
    "LoadReport",
    "Metric",
    "Prepared",
    "PretrainRecipe",
    "Pretraining",
    "PretrainingData",
    "Recipe",
    "RegressionFinetuning",
    "RunRecord",
    "RunResult",
    "TestResult",
    "decoding_kind",
    "decoding_of",
    "evaluate",
    "finetune",
    "load_weights",
    "model_state",
    "open_finetuned",
    "parse_recipe",
    "prepare_finetuning",
    "pretrain",
    "pretrained_model",
    "read_checkpoint",
    "task_kind",
]
