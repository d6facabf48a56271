"""The calcium POYO, and what all POYO-family models share."""

from poyo_ssl_plugin.models.adapters import Adapter, adapt, adapter_class
from poyo_ssl_plugin.models.architecture import held_model, model_to_start, model_to_train
from poyo_ssl_plugin.models.calcium_poyo import CalciumPOYO
from poyo_ssl_plugin.models.checkpoint import model_state, read_checkpoint, read_safetensors, write_safetensors
from poyo_ssl_plugin.models.hub import PretrainedModel
from poyo_ssl_plugin.models.identification import identify_units
from poyo_ssl_plugin.models.latents import (
    LatentPass,
    check_family,
    encoder_latents,
    model_inputs,
    process_latents,
    run_with_latents,
    run_without_dropout,
)
from poyo_ssl_plugin.models.read_in import ReadIn, UnitEmbedding
from poyo_ssl_plugin.models.readout import MultitaskReadout, PrototypeReadout
from poyo_ssl_plugin.models.start import build_model, initialise, instantiate
from poyo_ssl_plugin.models.vocabulary import dataset_unit_ids, replace_vocabulary
from poyo_ssl_plugin.models.weights import LoadReport, load_weights
from poyo_ssl_plugin.models.whitening import decorrelation

__all__ = [
    "Adapter",
    "CalciumPOYO",
    "LatentPass",
    "LoadReport",
    "MultitaskReadout",
    "PretrainedModel",
    "PrototypeReadout",
    "ReadIn",
    "UnitEmbedding",
    "adapt",
    "adapter_class",
    "build_model",
    "check_family",
    "dataset_unit_ids",
    "decorrelation",
    "encoder_latents",
    "held_model",
    "identify_units",
    "initialise",
    "instantiate",
    "load_weights",
    "model_inputs",
    "model_state",
    "model_to_start",
    "model_to_train",
    "process_latents",
    "read_checkpoint",
    "read_safetensors",
    "replace_vocabulary",
    "run_with_latents",
    "run_without_dropout",
    "write_safetensors",
]
