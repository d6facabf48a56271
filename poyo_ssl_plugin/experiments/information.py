"""How much does a window say? Fisher information and gradient signal-to-noise, per window, by population.

The paper explains its diet by the information that predictable neurons carry about the weights. Both measures
here are of the weights that pretraining passes on: embeddings of neurons and readouts are left out, so
that populations are compared on the same parameters.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data.tasks import IGNORED
from poyo_ssl_plugin.errors import DietError
from poyo_ssl_plugin.experiments.neurons import SET_ASIDE, member_rows, withhold
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, make_diet

OWN_PARTS = ("unit_emb", "session_emb", "readout", "task_emb")
# A batch to the logits (K, C) of its questions and their labels (K,).
Answers = Callable[[Any], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Information:
    """What one window says about the weights, on average.

    Attributes:
        fisher: Trace of the Fisher information, by exact expectation over the model's own answers.
        fisher_per_parameter: The same, divided by the number of parameters.
        gradient_snr: Squared length of the mean gradient over the summed variance of gradients, with the true
            labels; the bias of few windows is taken off, so it can be slightly negative.
        n_windows: Windows measured.
        n_parameters: Parameters measured.
    """

    fisher: float
    fisher_per_parameter: float
    gradient_snr: float
    n_windows: int
    n_parameters: int


def gradient_information(
    answers: Answers, windows: Iterable[Any], parameters: Sequence[nn.Parameter], *, max_labels: int = 32
) -> Information:
    r"""Measure information from the gradients of single windows.

    The Fisher trace of a window is :math:`\sum_y p(y) \lVert \nabla \log p(y) \rVert^2` (Martens 2020), one
    backward pass per label.

    Args:
        answers: From a window to logits (1, C) and its label (1,). The model should be in evaluation mode.
        windows: The windows, each a batch of one.
        parameters: The parameters to look at.
        max_labels: With more classes only the likeliest so many are summed, and their share of the
            probability is made up for.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2, 1))
        >>> def answers(x):
        ...     return x[:, None] @ weight.T, torch.tensor([0])
        >>> found = gradient_information(answers, [torch.tensor([2.0])] * 3, [weight])
        >>> round(found.fisher, 3), found.n_windows  # p (1 - p) x^2 for each of two rows
        (2.0, 3)
    """
    total = [torch.zeros_like(parameter) for parameter in parameters]
    fisher, squares, n = 0.0, 0.0, 0
    for window in windows:
        logits, label = answers(window)
        log_p = F.log_softmax(logits.float(), dim=-1)
        p = log_p.detach()[0].exp()
        likeliest = p.topk(min(max_labels, len(p))).indices
        of_window = 0.0
        for y in likeliest.tolist():
            of_window += float(p[y]) * _square(_gradient(log_p[0, y], parameters, keep=True))
        fisher += of_window / max(float(p[likeliest].sum()), 1e-12)
        gradient = _gradient(F.nll_loss(log_p, label), parameters)
        squares += _square(gradient)
        for accumulated, part in zip(total, gradient, strict=True):
            accumulated += part
        n += 1
    size = sum(parameter.numel() for parameter in parameters)
    mean_square = _square([part / max(n, 1) for part in total])
    # The squared length of a mean of n gradients holds one n-th of their variance.
    variance = (squares / max(n, 1) - mean_square) * n / max(n - 1, 1)
    snr = (mean_square - variance / max(n, 1)) / variance if variance > 1e-30 else 0.0
    return Information(fisher / max(n, 1), fisher / max(n, 1) / size, snr, n, size)


def information_by_population(
    dataset: Any,
    table: PredictabilityTable,
    split: Any,
    *,
    populations: Mapping[str, Mapping[str, Any]],
    overrides: Sequence[str] = (),
    n_windows: int = 64,
    seed: int = 0,
) -> dict[str, Information]:
    """Information per window of several populations, about the same weights.

    Every population is cut at random to the size of the smallest, is shown in the same test windows of the same
    recordings, and meets the same weights (of ``init_from`` among the overrides, else random ones).

    Args:
        dataset: The recordings.
        table: Their scored neurons.
        split: Times of training and test.
        populations: Name to the rule of a diet and its options, such as ``{"rule": "predictable"}``.
        overrides: Of the fine-tuning recipe, such as ``"model=small"`` or ``"task=natural_movie"``.
        n_windows: Test windows to measure.
        seed: Seed of the weights and of the draw of neurons.

    Raises:
        DietError: If no recording has neurons of all populations.
    """
    from poyo_ssl_plugin.training import Inputs, prepare_finetuning

    diets = {name: make_diet(table, **dict(rule)) for name, rule in populations.items()}
    names = [name for name in dataset.recording_ids if all(diet.count(name) for diet in diets.values())]
    if not names:
        raise DietError(f"no recording has neurons of all of {', '.join(diets)}, so they cannot be compared")
    config = compose_recipe("finetune", "scratch", [*overrides, "diet=all", f"data.root={dataset.dataset_dir}"])
    config.diet.table = "in-memory"
    found = {}
    for population, diet in diets.items():
        kept = _matched(diet, list(diets.values()), table, names, seed)
        inputs = Inputs(dataset, withhold(table, ~kept, SET_ASIDE), split)
        run = prepare_finetuning(config, inputs, seed=seed)
        module = run.module.eval()
        parameters = [p for name, p in module.model.named_parameters() if not name.startswith(OWN_PARTS)]
        run.data.batch_size = 1
        found[population] = gradient_information(
            lambda batch, module=module: _answers(module, batch),  # type: ignore[misc]
            _first(run.data.test_dataloader(), n_windows),
            parameters,
        )
    return found


def as_json(found: Mapping[str, Information]) -> dict[str, Any]:
    """Information by population, in plain values."""
    return json.loads(json.dumps({name: asdict(information) for name, information in found.items()}))


def _matched(diet: Diet, all_of: Sequence[Diet], table: PredictabilityTable, names: Sequence[str], seed: int) -> Any:
    """Rows of a diet's neurons, in each recording cut to as many as the smallest diet has there."""
    rng = np.random.default_rng(seed)
    members = member_rows(diet, table)
    kept = np.zeros(len(table), dtype=bool)
    for name in names:
        rows = np.flatnonzero(members & (table["recording_id"] == name))
        kept[rng.permutation(rows)[: min(other.count(name) for other in all_of)]] = True
    return kept


def _answers(module: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    from poyo_ssl_plugin.training.tokens import answered

    return answered(module.adapter, module.model(**batch["inputs"]), batch, module.task.name)


def _first(loader: Iterable[Any], n: int) -> Iterable[Any]:
    """The first ``n`` batches that ask something."""
    kept = 0
    for batch in loader:
        if kept == n:
            return
        if (batch["target"] != IGNORED).all():
            kept += 1
            yield batch


def _gradient(value: torch.Tensor, parameters: Sequence[nn.Parameter], *, keep: bool = False) -> list[torch.Tensor]:
    gradient = torch.autograd.grad(value, parameters, retain_graph=keep, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, parameters, strict=True)]


def _square(parts: Iterable[torch.Tensor]) -> float:
    return float(sum(part.double().square().sum() for part in parts))
