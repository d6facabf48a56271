from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from tiny import PAPER, inputs, model, structured

from poyo_ssl_plugin import CalciumPOYO, EMATeacher, MaskedActivity, MaskedLatentReconstruction
from poyo_ssl_plugin.compat import GENERATION, POYO
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.objectives import (
    MASKS,
    Decorrelation,
    LatentLayout,
    decorrelation,
    effective_rank,
    get_mask,
    input_dependent_std,
    latent_health,
)
from poyo_ssl_plugin.objectives.activity_masks import mask_neurons

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


class TestDecorrelation:
    def test_against_numpy(self):
        x = torch.randn(16, 6, 5, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1, 2, 3])
        steps = (x - x.mean(dim=0)).reshape(16, 3, 10).double().numpy()
        width = np.einsum("bti,btj->ij", steps, steps) / (16 * 3)
        time = np.einsum("bti,bsi->ts", steps, steps) / (16 * 10)
        d = width.diagonal().mean()
        expected = ((width / d) ** 2).sum() / 10 + ((time / d) ** 2).sum() / 3 + (d - 1) ** 2
        assert decorrelation(x, n_steps=3).item() == pytest.approx(expected, rel=1e-5)

    def test_each_way_to_repeat_costs(self):
        white = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))
        least = decorrelation(white, 2).item()
        over_width, over_time = white.clone(), white.clone()
        over_width[:, 1::2] = white[:, ::2]
        over_time[:, 2:] = white[:, :2]
        assert least == pytest.approx(2, abs=0.1)
        for worse in (over_width, over_time, 2 * white, 0.1 * white):
            assert decorrelation(worse, 2) > least + 0.5

    def test_as_objective_it_is_of_the_encoder_s_latents(self):
        made, plain = model(), inputs(n_windows=8)
        result = Decorrelation()(made, plain)
        torch.testing.assert_close(result.loss, decorrelation(made.encode(**plain)[0], 4))
        assert result.predicted is None and set(result.terms) == {"decorrelation"}


def target_and_guess_of_the_second_half(made, plain, objective, seen=None):
    """The last latents of a model, and the head's guess of the second half from ``seen`` without that half."""
    first, rotary = made.encode(**plain)
    hidden = made.encode(**(seen or plain))[0].clone()
    slots = made.latent_emb.weight.repeat(2, 1)
    normal = (slots - slots.mean(-1, keepdim=True)) / (slots.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    hidden[:, 8:] = objective.mask_token + slots + normal @ objective.slot.weight.T
    return made.process(first, rotary), objective.predictor(made.process(hidden, rotary))


def normalised(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


class TestMaskedLatentReconstruction:
    @pytest.mark.parametrize("target", ["encoder", "processor"])
    def test_hidden_latents_against_an_independent_computation(self, target):
        made, plain = model(), inputs()
        objective = MaskedLatentReconstruction(
            32, mask="causal_time", hide_neurons=0.0, target=target, masked_weight=0.7, decorrelation_weight=0.3
        )
        result = objective(made, plain)
        with torch.no_grad():
            last, guess = target_and_guess_of_the_second_half(made, plain, objective)
            first = made.encode(**plain)[0]
            wanted = normalised(first if target == "encoder" else last)
            masked = (guess - wanted)[:, 8:].abs().mean()
        torch.testing.assert_close(result.terms["masked"], masked)
        torch.testing.assert_close(result.loss, 0.7 * masked + 0.3 * decorrelation(first, 4))
        torch.testing.assert_close(result.predicted, guess)
        torch.testing.assert_close(result.target, wanted)
        assert not result.hidden[:, :8].any() and result.hidden[:, 8:].all()

    def test_hidden_neurons_against_an_independent_computation(self):
        made, plain = model(), inputs()
        objective = MaskedLatentReconstruction(32, mask="causal_time", hide_neurons=0.5)
        result = objective(made, plain, torch.Generator().manual_seed(3))
        drop = mask_neurons(plain["input_mask"], 0.5, torch.Generator().manual_seed(3))
        assert drop.any(dim=2).sum(dim=1).tolist() == [2, 2, 2]
        with torch.no_grad():
            seen = {**plain, "input_mask": plain["input_mask"] & ~drop}
            _, guess = target_and_guess_of_the_second_half(made, plain, objective, seen)
            wanted = normalised(made.encode(**plain)[0])
        # With neurons hidden, all latents have something to tell.
        assert result.hidden.all()
        torch.testing.assert_close(result.terms["masked"], (guess - wanted).abs().mean())

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
            hide_neurons=0.0,
            target="live",
            decorrelation_weight=0.0,
        )
        assert objective(made, inputs()).loss == 0

    def test_the_target_takes_no_gradient_by_default(self):
        made, plain = model(), inputs()
        objective = MaskedLatentReconstruction(32, target="processor", decorrelation_weight=0.0)
        result = objective(made, plain)
        (gradient,) = torch.autograd.grad(result.loss, result.latent_pass.processor_latents, allow_unused=True)
        assert gradient is None and not result.target.requires_grad
        live = MaskedLatentReconstruction.paper(32)(made, plain)
        assert torch.autograd.grad(live.loss, live.latent_pass.processor_latents)[0].abs().sum() > 0

    @pytest.mark.parametrize(("hide_neurons", "runs"), [(0.0, 1), (0.5, 2)])
    def test_the_encoder_runs_once_more_only_to_hide_neurons(self, hide_neurons, runs):
        made, calls = model(), []
        made.read_in.register_forward_hook(lambda *_: calls.append(1))
        MaskedLatentReconstruction(32, hide_neurons=hide_neurons)(made, inputs())
        assert len(calls) == runs

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


OBJECTIVES = {
    "masked_latent": lambda **options: MaskedLatentReconstruction(32, **options),
    "ema_teacher": lambda **options: EMATeacher(32, **{"ramp_steps": 100, **options}),
    "masked_activity": lambda **options: MaskedActivity(32, patch_size=10, dim_head=16, **options),
}


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_all_parameters_get_a_gradient(kind):
    made, objective = model().train(), OBJECTIVES[kind]().train()
    result = objective(made, inputs(n_windows=8))
    logits = result.latent_pass.output.flatten(0, 1)
    (result.loss + F.cross_entropy(logits, torch.zeros(16, dtype=torch.long))).backward()
    own = [(name, p) for name, p in objective.named_parameters() if not name.startswith("teacher")]
    for name, parameter in [*made.named_parameters(), *own]:
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("kind", ["masked_latent", "ema_teacher"])
def test_dropout_is_off_for_the_target_and_on_again_after(kind):
    made, objective = model(lin_dropout=0.5).train(), OBJECTIVES[kind]().train()
    one, two = (objective(made, inputs()).latent_pass.processor_latents for _ in range(2))
    assert torch.equal(one, two) and made.training and made.dropout.training


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((kind, wrong) for kind in OBJECTIVES for wrong in ({"ratio": 1.0}, {"distance": "l3"}, {"mask": "x"})),
        ("masked_latent", {"ratio": 0.0}),
        ("masked_latent", {"target": "other"}),
        ("masked_latent", {"hide_neurons": 1.0}),
        ("ema_teacher", {"decay": 0.9999}),
        ("ema_teacher", {"layers": 0}),
    ],
)
def test_bad_arguments(kind, wrong):
    with pytest.raises(RecipeError):
        OBJECTIVES[kind](**wrong)


@pytest.mark.parametrize("kind", [*OBJECTIVES, "decorrelation"])
def test_an_objective_keeps_the_representation(kind):
    before, after = health_before_and_after(OBJECTIVES.get(kind, Decorrelation)(), model())
    assert after["effective_rank"] >= before["effective_rank"] / 2
    assert after["latent_std"] >= min(before["latent_std"], 1.0) / 2


def test_the_paper_s_text_loses_it():
    """What the default is for; without this contrast the test above could not fail."""
    before, after = health_before_and_after(MaskedLatentReconstruction.paper(32), model(**PAPER))
    assert after["latent_std"] < before["latent_std"] / 2


def health_before_and_after(objective: torch.nn.Module, made: CalciumPOYO, steps: int = 200) -> tuple[dict, dict]:
    """Health of held-out latents before and after so many steps on random but structured windows."""
    held_out = structured(64, seed=10_000)

    def health() -> dict:
        made.eval()
        with torch.no_grad():
            found = latent_health(made.process(*made.encode(**held_out)))
        return {name: value.item() for name, value in found.items()}

    torch.manual_seed(0)
    before = health()
    objective(made, structured(2, seed=0))  # makes lazy layers
    optimizer = torch.optim.AdamW([*made.parameters(), *objective.parameters()], lr=2e-3)
    for step in range(steps):
        made.train()
        loss = objective(made, structured(16, seed=step)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, health()
