from __future__ import annotations

import copy

import pytest
import torch
from quick import quick
from tiny import PAPER, inputs, model

from poyo_ssl_plugin import EMATeacher, MaskedActivity
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.objectives import ACTIVITY_MASKS, decorrelation
from poyo_ssl_plugin.training import pretrain, read_checkpoint


def activity(**options) -> MaskedActivity:
    torch.manual_seed(0)
    return MaskedActivity(32, patch_size=10, dim_head=16, **options)


class TestActivityMasks:
    real = torch.ones(4, 8, 6, dtype=torch.bool)

    @pytest.mark.parametrize("name", list(ACTIVITY_MASKS))
    @pytest.mark.parametrize("ratio", [0.25, 0.5])
    def test_the_share_and_the_shape(self, name, ratio):
        mask = ACTIVITY_MASKS[name](self.real, ratio, torch.Generator().manual_seed(0))
        share = mask.float().mean(dim=(1, 2))
        torch.testing.assert_close(share, torch.full((4,), ratio), atol=0.12, rtol=0)
        assert (mask[0] != mask[1]).any()

    def test_whole_neurons_and_whole_times(self):
        neurons = ACTIVITY_MASKS["neurons"](self.real, 0.5, None)
        assert (neurons.all(dim=2) == neurons.any(dim=2)).all()
        time = ACTIVITY_MASKS["time"](self.real, 0.5, None)
        assert (time.all(dim=1) == time.any(dim=1)).all()

    @pytest.mark.parametrize("name", list(ACTIVITY_MASKS))
    @pytest.mark.parametrize("ratio", [0.01, 0.99])
    def test_padding_is_never_hidden_and_something_is_always_seen(self, name, ratio):
        real = self.real.clone()
        real[0, 3:], real[1, :, 4:], real[2, 1:] = False, False, False
        for seed in range(20):
            mask = ACTIVITY_MASKS[name](real, ratio, torch.Generator().manual_seed(seed))
            assert not (mask & ~real).any() and (real & ~mask).any(dim=2).any(dim=1).all()

    def test_the_generator_decides(self):
        def draw(seed):
            return ACTIVITY_MASKS["both"](self.real, 0.5, torch.Generator().manual_seed(seed))

        assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


class TestMaskedActivity:
    @pytest.mark.parametrize("distance", ["mse", "l1", "smooth_l1"])
    @pytest.mark.parametrize("options", [{}, PAPER], ids=["read_in", "attention"])
    def test_against_an_independent_computation(self, distance, options):
        made, plain = model(**options), inputs()
        hide = torch.zeros(3, 4, 6, dtype=torch.bool)
        hide[:, 1] = True
        hide[0, :, 2] = True
        objective = activity(distance=distance, mask=lambda real, ratio, generator: hide).eval()
        result = objective(made, plain)
        with torch.no_grad():
            seen = {**plain, "input_mask": ~hide}
            first, rotary = made.encode(**seen)
            last = made.process(first, rotary)
            predictions, wanted = [], []
            for b, n, p in hide.nonzero().tolist():
                unit = made.unit_emb(plain["input_unit_index"][b : b + 1, n : n + 1])
                query = objective.query(unit)
                time = made.rotary_emb(plain["input_timestamps"][b : b + 1, p : p + 1])
                found = query + objective.attend(query, last[b : b + 1], time, rotary[b : b + 1])
                found = found + objective.mix(found)
                predictions.append(objective.out(found * (1 + objective.gate(unit)))[0, 0])
                wanted.append(plain["input_values"][b, n, p])
            error = torch.stack(predictions) - torch.stack(wanted)
            expected = {
                "mse": error.square().mean(),
                "l1": error.abs().mean(),
                "smooth_l1": torch.where(error.abs() < 1, error.square() / 2, error.abs() - 0.5).mean(),
            }[distance]
            explained = 1 - error.square().sum() / torch.stack(wanted).square().sum()
        torch.testing.assert_close(result.loss, expected)
        torch.testing.assert_close(result.terms["masked_skill"], explained)

    def test_hidden_values_do_not_matter_to_the_prediction(self):
        made, plain = model(), inputs()
        hide = torch.zeros(3, 4, 6, dtype=torch.bool)
        hide[:, :2] = True
        objective = activity(mask=lambda real, ratio, generator: hide).train()
        changed = {**plain, "input_values": plain["input_values"].masked_fill(hide[..., None], 9.0)}
        one, two = (objective(made, x).latent_pass.processor_latents for x in (plain, changed))
        assert torch.equal(one, two)

    def test_padding_is_no_target(self):
        made, plain = model(), inputs()
        mask = torch.ones(3, 4, 6, dtype=torch.bool)
        mask[:, 3] = False
        junk = plain["input_values"].clone()
        junk[:, 3] = 1e3
        objective = activity(mask="neurons")
        a, b = (
            objective(made, {**plain, "input_mask": mask, "input_values": v}, torch.Generator().manual_seed(0)).loss
            for v in (plain["input_values"], junk)
        )
        assert torch.equal(a, b)

    def test_in_evaluation_the_latents_are_those_of_the_whole_input(self):
        made, plain, objective = model(), inputs(), activity()
        whole = made.process(*made.encode(**plain))
        assert torch.equal(objective.eval()(made, plain).latent_pass.processor_latents, whole)
        assert not torch.equal(objective.train()(made, plain).latent_pass.processor_latents, whole)

    def test_one_neuron_and_no_mask(self):
        made = model()
        for mask in ACTIVITY_MASKS:
            result = activity(mask=mask)(made, {**inputs(n_units=1), "input_mask": None})
            assert torch.isfinite(result.loss)

    def test_other_models_are_refused(self):
        with pytest.raises(RecipeError, match="CalciumPOYO"):
            activity()(model(), {"input_unit_index": torch.zeros(1, 2)})


class TestEMATeacher:
    @pytest.mark.parametrize("layers", [1, 2, None])
    def test_against_an_independent_computation(self, layers):
        made, plain = model(), inputs()
        objective = EMATeacher(32, mask="causal_time", layers=layers, hide_neurons=0.0, decorrelation_weight=0.3).eval()
        objective.attach(model(emb_init_scale=0.5))
        result = objective(made, plain)
        with torch.no_grad():
            latents, rotary = objective.teacher.encode(**plain)
            outputs = []
            for attention, feed_forward in objective.teacher.proc_layers:
                latents = latents + attention(latents, rotary)
                latents = latents + feed_forward(latents)
                outputs.append(
                    (latents - latents.mean(-1, keepdim=True))
                    / (latents.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
                )
            wanted = torch.stack(outputs[-(layers or 2) :]).mean(dim=0)
            masked = (result.predicted - wanted)[:, 8:].abs().mean()
            assert result.hidden[:, 8:].all() and not result.hidden[:, :8].any()
            loss = masked + 0.3 * decorrelation(made.encode(**plain)[0], 4)
        torch.testing.assert_close(result.target, wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(result.terms["masked"], masked, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(result.loss, loss, atol=1e-4, rtol=1e-4)

    def test_the_teacher_follows_slowly_and_only_in_training(self):
        made, plain = model(), inputs()
        objective = EMATeacher(32, decay=0.8, final_decay=1.0, ramp_steps=2)
        objective.attach(made)
        old = copy.deepcopy(made.read_in.spatial.weight.data)
        with torch.no_grad():
            made.read_in.spatial.weight += 1.0
        teacher = objective.teacher.read_in.spatial.weight
        objective.eval()(made, plain)
        torch.testing.assert_close(teacher, old)
        objective.train()
        expected = old
        for decay in (0.8, 0.9, 1.0, 1.0):
            objective(made, plain)
            expected = decay * expected + (1 - decay) * made.read_in.spatial.weight.data
            torch.testing.assert_close(teacher, expected)
        with torch.no_grad():
            objective(made, plain)
        assert int(objective.steps) == 4

    def test_the_teacher_takes_no_gradient_and_never_drops_out(self):
        made = model(lin_dropout=0.5).train()
        objective = EMATeacher(32).train()
        objective(made, inputs()).loss.backward()
        assert made.training and not any(module.training for module in objective.teacher.modules())
        objective.train()
        assert not objective.teacher.training
        assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())
        assert all(p.requires_grad for p in made.parameters())


QUICK = quick(steps=3, val_every=2)


@pytest.mark.parametrize("ssl", ["masked_activity", "ema_teacher"])
@pytest.mark.parametrize("auxiliary", ["drifting_gratings", "null"])
def test_it_pretrains_by_recipe_and_resumes(ssl, auxiliary, recipe):
    overrides = [f"ssl={ssl}", f"aux.task={auxiliary}"]
    result = pretrain(recipe("pretrain", *overrides))
    assert {"train/masked", "valid/masked", "valid/effective_rank"} <= set(result.metrics)
    content = read_checkpoint(result.checkpoint)
    if ssl == "ema_teacher":
        assert int(content["objective"]["objective.steps"]) > 0
    longer = pretrain(recipe("pretrain", *overrides, "resume=true", "trainer.max_steps=5"))
    assert read_checkpoint(longer.checkpoint)["global_step"] == 5
