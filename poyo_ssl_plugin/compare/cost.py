"""What the model of a finished run costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from poyo_ssl_plugin.frames import FRAMES_TASK
from poyo_ssl_plugin.models.flops import Cost, measure_cost
from poyo_ssl_plugin.training import Inputs, open_finetuned


def model_cost(checkpoint: str | Path, inputs: Inputs) -> tuple[Cost, Cost]:
    """What a fine-tuned model costs, and what it cost as it was pretrained, without what is fine-tuned beside it."""
    opened = open_finetuned(checkpoint, inputs=inputs)
    batch = next(iter(opened.data.test_dataloader()))
    model = measure_cost(opened.module.model, batch["inputs"], len(batch["target"]))
    if opened.decoding.task.name != FRAMES_TASK.name:
        return model, model
    latent = {"latent": torch.zeros(1, opened.decoding.n_outputs)}
    decoder = measure_cost(opened.module.get_submodule("decoder"), latent, 1)
    flops = model.forward_flops + decoder.forward_flops
    return replace(model, parameters=model.parameters + decoder.parameters, forward_flops=flops), model
