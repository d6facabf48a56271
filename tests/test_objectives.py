from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from test_models import inputs, model

from poyo_ssl_plugin import MaskedLatentReconstruction
from poyo_ssl_plugin.compat import GENERATION, POYO
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.objectives import (
    MASKS,
    LatentLayout,
    effective_rank,
    get_mask,
    input_dependent_std,
    variance_covariance,
)

LAYOUT = LatentLayout(n_windows=5, n_steps=8, per_step=3, dim=12)


class TestMasks:
    @pytest.mark.parametrize("name", list(MASKS))
    @pytest.mark.parametrize("ratio", [0.25, 0.5])
    def test_each_window_hides_the_ratio_and_never_all(self, name, ratio):
        mask = get_mask(name)(LAYOUT, ratio, torch.Generator().manual_seed(0))
        assert mask.dtype == torch.bool
        share = mask.expand(5, 24, 12).float().mean(dim=(1, 2))
        torch.testing.assert_close(share, torch.full((5,), ratio), atol=0.06, rtol=0)

    def test_causal_time_hides_the_last_steps(self):
        mask = get_mask("causal_time")(LAYOUT, 0.5, None).view(5, 8, 3)
        assert not mask[:, :4].any() and mask[:, 4:].all()

    def test_random_time_hides_whole_steps_and_differs_between_windows(self):
        mask = get_mask("random_time")(LAYOUT, 0.5, torch.Generator().manual_seed(0)).view(5, 8, 3)
        assert (mask.all(dim=2) == mask.any(dim=2)).all()
        assert len({tuple(row) for row in mask[..., 0].tolist()}) > 1

    def test_causal_dim_hides_the_last_dimensions(self):
        mask = get_mask("causal_dim")(LAYOUT, 0.25, None)
        assert not mask[..., :9].any() and mask[..., 9:].all() and mask.shape == (5, 24, 12)

    def test_random_dim_hides_the_same_dimensions_of_all_latents(self):
        mask = get_mask("random_dim")(LAYOUT, 0.5, torch.Generator().manual_seed(0))
        assert (mask == mask[:, :1]).all() and (mask[0] != mask[1]).any()

    def test_the_generator_decides(self):
        def draw(seed):
            return get_mask("random_latents")(LAYOUT, 0.5, torch.Generator().manual_seed(seed))

        assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))

    def test_unknown(self):
        with pytest.raises(RecipeError, match="unknown mask 'time'; there are causal_time"):
            get_mask("time")


class TestHealth:
    def test_against_numpy(self):
        x = torch.randn(30, 4, 6, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 7)
        centred = (x - x.mean(dim=0)).reshape(-1, 6).numpy()
        singular = np.linalg.svd(centred, compute_uv=False)
        assert effective_rank(x).item() == pytest.approx(np.exp(entropy(singular / singular.sum())))
        assert input_dependent_std(x).item() == pytest.approx(np.sqrt((centred**2).mean()))

    def test_latents_that_ignore_the_input_are_dead(self):
        x = torch.randn(1, 4, 6).expand(20, -1, -1)
        assert input_dependent_std(x) == 0 and effective_rank(x) == 0

    def test_as_many_directions_as_there_are(self):
        x = torch.randn(4000, 1, 8, generator=torch.Generator().manual_seed(0))
        assert effective_rank(x).item() == pytest.approx(8, rel=0.01)
        x[..., 3:] = 0
        assert effective_rank(x).item() == pytest.approx(3, rel=0.01)


def test_variance_and_covariance_against_numpy():
    x = torch.randn(16, 3, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1, 2, 3])
    variance, covariance = variance_covariance(x)
    centred = (x - x.mean(dim=0)).reshape(-1, 5).numpy()
    matrix = centred.T @ centred / (16 * 3 - 3)
    assert variance.item() == pytest.approx(np.maximum(0, 1 - np.sqrt(matrix.diagonal() + 1e-4)).mean(), rel=1e-5)
    off = matrix - np.diag(matrix.diagonal())
    assert covariance.item() == pytest.approx((off**2).sum() / 5, rel=1e-5)


def output_and_guess_of_the_second_half(made, plain, objective):
    """The output of a model for its latents, and the head's guess of its second half without that half."""
    first, rotary = made.encode(**plain)
    hidden = first.clone()
    hidden[:, 8:] = objective.mask_token
    return made.process(first, rotary), objective.predictor(made.process(hidden, rotary))[:, 8:]


class TestMaskedLatentReconstruction:
    def test_the_default_against_an_independent_computation(self):
        made, plain = model(), inputs()
        objective = MaskedLatentReconstruction(32, mask="causal_time", variance_weight=0.7, covariance_weight=0.3)
        result = objective(made, plain)
        with torch.no_grad():
            last, guess = output_and_guess_of_the_second_half(made, plain, objective)
            wanted = (
                (last - last.mean(-1, keepdim=True)) / (last.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            )[:, 8:]
            masked = (guess - wanted).abs().mean()
            variance, covariance = variance_covariance(last)
        torch.testing.assert_close(result.terms["masked"], masked)
        torch.testing.assert_close(result.loss, masked + 0.7 * variance + 0.3 * covariance)

    @pytest.mark.parametrize("dropout", [0.0, 0.4])
    def test_the_paper_s_text_against_an_independent_computation(self, dropout):
        made, plain = model(lin_dropout=dropout).eval(), inputs()
        result = MaskedLatentReconstruction.paper(32)(made, plain)
        first, rotary = made.encode(**plain)
        zeroed = first.clone()
        zeroed[:, 8:] = 0
        expected = (made.process(zeroed, rotary) - made.process(first, rotary)).abs().mean()
        torch.testing.assert_close(result.loss, expected)
        assert set(result.terms) == {"masked"}

    def test_nothing_hidden_nothing_lost(self):
        """Both branches are one computation: what the published code lacks."""
        made = model().train()
        made.dropout.p = 0.0
        for module in made.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        objective = MaskedLatentReconstruction(
            32,
            mask=lambda layout, ratio, generator: torch.zeros(
                layout.n_windows, layout.n_steps * layout.per_step, 1
            ).bool(),
            target="live",
            variance_weight=0.0,
            covariance_weight=0.0,
        )
        assert objective(made, inputs()).loss == 0

    def test_the_target_takes_no_gradient_by_default(self):
        made, plain = model(), inputs()
        objective = MaskedLatentReconstruction(32, variance_weight=0.0, covariance_weight=0.0)
        result = objective(made, plain)
        (gradient,) = torch.autograd.grad(result.loss, result.latent_pass.processor_latents, allow_unused=True)
        assert gradient is None
        live = MaskedLatentReconstruction.paper(32)(made, plain)
        assert torch.autograd.grad(live.loss, live.latent_pass.processor_latents)[0].abs().sum() > 0

    def test_dropout_is_off_for_the_target_and_on_again_after(self):
        made = model(lin_dropout=0.5).train()
        objective = MaskedLatentReconstruction(32)
        one, two = (objective(made, inputs()).latent_pass.processor_latents for _ in range(2))
        assert torch.equal(one, two) and made.training and made.dropout.training

    def test_the_encoder_runs_once(self):
        made, calls = model(), []
        made.enc_atn.register_forward_hook(lambda *_: calls.append(1))
        MaskedLatentReconstruction(32)(made, inputs())
        assert len(calls) == 1

    def test_all_parameters_get_a_gradient(self):
        made = model().train()
        objective = MaskedLatentReconstruction(32)
        result = objective(made, inputs(n_windows=8))
        (
            result.loss + F.cross_entropy(result.latent_pass.output.flatten(0, 1), torch.zeros(16, dtype=torch.long))
        ).backward()
        for name, parameter in [*made.named_parameters(), *objective.named_parameters()]:
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name

    @pytest.mark.parametrize(
        "wrong", [{"ratio": 0.0}, {"ratio": 1.0}, {"distance": "l3"}, {"target": "other"}, {"mask": "x"}]
    )
    def test_bad_arguments(self, wrong):
        with pytest.raises(RecipeError):
            MaskedLatentReconstruction(32, **wrong)

    @pytest.mark.skipif(GENERATION == "0.1", reason="POYO of torch_brain 0.1 is constructed in another way")
    def test_a_stock_poyo_of_spikes(self):
        torch.manual_seed(0)
        stock = POYO(
            sequence_length=1.0, latent_step=0.25, num_latents_per_step=4, dim=32, dim_out=2, depth=1, dim_head=16
        )
        stock.unit_emb.initialize_vocab(["a", "b", "c"])
        stock.session_emb.initialize_vocab(["s"])
        from poyo_ssl_plugin.compat import create_linspace_latent_tokens

        index, times = create_linspace_latent_tokens(0.0, 1.0, step=0.25, num_latents_per_step=4)
        spikes = {
            "input_unit_index": torch.randint(1, 4, (6, 20)),
            "input_timestamps": torch.rand(6, 20),
            "input_token_type": torch.zeros(6, 20, dtype=torch.long),
            "latent_index": torch.from_numpy(index).expand(6, -1),
            "latent_timestamps": torch.from_numpy(times).float().expand(6, -1),
            "session_index": torch.ones(6, dtype=torch.long),
            "output_timestamps": torch.rand(6, 3),
        }
        objective = MaskedLatentReconstruction(32)
        result = objective(stock, spikes)
        assert result.latent_pass.processor_latents.shape == (6, 16, 32) and result.latent_pass.output.shape == (
            6,
            3,
            2,
        )
        result.loss.backward()
        assert stock.enc_atn.to_kv.weight.grad.abs().sum() > 0


def train_on_masked_loss_alone(objective: MaskedLatentReconstruction, steps: int = 200) -> tuple[dict, dict]:
    """Health of held-out latents before and after so many steps on random but structured windows."""
    torch.manual_seed(0)
    made = model(lin_dropout=0.2)
    mixing = torch.randn(3, 6, 1, 1)

    def windows(n: int, generator: torch.Generator) -> dict:
        # Three slow sources seen by six neurons, with noise: something to reconstruct.
        slow = torch.randn(n, 3, 1, 6, 1, generator=generator).cumsum(dim=3)
        values = (slow * mixing).sum(dim=1) + 0.5 * torch.randn(n, 6, 6, 10, generator=generator)
        return {**inputs(n, 6), "input_values": values}

    generator = torch.Generator().manual_seed(1)
    held_out = windows(64, torch.Generator().manual_seed(2))
    optimizer = torch.optim.AdamW([*made.parameters(), *objective.parameters()], lr=2e-3)

    def health() -> dict:
        made.eval()
        with torch.no_grad():
            first, rotary = made.encode(**held_out)
            last = made.process(first, rotary)
        return {"rank": effective_rank(last).item(), "std": input_dependent_std(last).item()}

    before = health()
    for _ in range(steps):
        made.train()
        loss = objective(made, windows(16, generator)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, health()


def test_the_default_keeps_its_representation():
    before, after = train_on_masked_loss_alone(MaskedLatentReconstruction(32))
    assert after["rank"] >= before["rank"] / 2 and after["std"] >= before["std"] / 2


def test_the_paper_s_text_loses_it():
    """What the default is for; without this contrast the test above could not fail."""
    before, after = train_on_masked_loss_alone(MaskedLatentReconstruction.paper(32))
    assert after["std"] < before["std"] / 2
