"""Training with Lightning: modules, data modules, checkpoints and runs."""

from poyo_ssl_plugin.models import model_state, read_checkpoint
from poyo_ssl_plugin.training.checkpoint import LoadReport, load_weights
from poyo_ssl_plugin.training.data import DietData, FinetuningData, PretrainingData
from poyo_ssl_plugin.training.finetuning import Finetuning
from poyo_ssl_plugin.training.frames import FrameData, FrameDecoding, FrameResult, evaluate_frames, finetune_frames
from poyo_ssl_plugin.training.pretrained import pretrained_model
from poyo_ssl_plugin.training.pretraining import Pretraining
from poyo_ssl_plugin.training.recipe import Inputs
from poyo_ssl_plugin.training.run import (
    Prepared,
    RunResult,
    evaluate,
    finetune,
    open_finetuned,
    prepare_finetuning,
    pretrain,
)

__all__ = [
    "DietData",
    "Finetuning",
    "FinetuningData",
    "FrameData",
    "FrameDecoding",
    "FrameResult",
    "Inputs",
    "LoadReport",
    "Prepared",
    "Pretraining",
    "PretrainingData",
    "RunResult",
    "evaluate",
    "evaluate_frames",
    "finetune",
    "finetune_frames",
    "load_weights",
    "model_state",
    "open_finetuned",
    "prepare_finetuning",
    "pretrain",
    "pretrained_model",
    "read_checkpoint",
]
