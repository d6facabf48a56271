"""Curricula, from the pacing to a pretraining run that uses one."""

from __future__ import annotations

import numpy as np
import pytest
from quick import quick

from poyo_ssl_plugin.compat import Interval
from poyo_ssl_plugin.data import CurriculumSampler
from poyo_ssl_plugin.data.curriculum import PACINGS, LossPacing, make_pacing
from poyo_ssl_plugin.errors import DietError, RecipeError
from poyo_ssl_plugin.predictability import Diet
from poyo_ssl_plugin.training import Inputs, PretrainingData, PretrainRecipe, parse_recipe, pretrain, read_checkpoint

QUICK = quick(steps=6, batch_size=8)


class TestPacings:
    @pytest.mark.parametrize("name", list(PACINGS))
    def test_they_open_from_nothing_to_all_and_never_close(self, name):
        way = [make_pacing(name)(x) for x in np.linspace(0, 1, 50)]
        assert way[0] == 0 and way[-1] == pytest.approx(1) and way == sorted(way)

    def test_by_loss(self):
        rng = np.random.default_rng(0)
        pacing = LossPacing(stages=2, patience=10)
        falling = [10 * 0.95**i for i in range(60)]
        for loss in falling:
            pacing.observe(loss)
        assert pacing.way == 0, "it opens while the loss still falls"
        flat = falling[-1] + 0.02 * rng.normal(size=120)
        ways = []
        for loss in flat:
            pacing.observe(float(loss))
            ways.append(pacing.way)
        assert ways[-1] == 1.0 and 0.5 in ways and ways == sorted(ways)
        again = LossPacing(stages=2, patience=10)
        again.load_state_dict(pacing.state_dict())
        assert again.way == pacing.way

    def test_losses_that_are_no_numbers_are_passed_over(self):
        pacing = LossPacing(patience=1)
        for loss in (1.0, float("nan"), float("inf")):
            pacing.observe(loss)
        assert pacing.stage == 0

    def test_mistakes(self):
        with pytest.raises(DietError, match="unknown pacing 'quadratic'; there are linear, exponential, step, loss"):
            make_pacing("quadratic")
        with pytest.raises(DietError, match="patience"):
            LossPacing(patience=0)


def test_a_sampler_asks_the_pacing_when_it_yields(table):
    pacing = LossPacing(stages=1, patience=1)
    sampler = CurriculumSampler(
        diet=Diet.everything(table),
        epochs=1,
        pacing=pacing,
        start_fraction=0.5,
        sampling_intervals={"sim_000": Interval(0.0, 20.0)},
        window_length=1.0,
    )
    windows = iter(sampler)
    assert next(windows).diet_fraction == 0.5
    for loss in (1.0, 1.0):
        pacing.observe(loss)
    assert next(windows).diet_fraction == 1.0


class TestPretraining:
    @pytest.mark.parametrize(("pacing", "opens"), [("linear", True), ("step", True), ("loss", False)])
    def test_the_diet_opens_over_the_training(self, recipe, monkeypatch, pacing, opens):
        shares, n_units = [], []
        original = CurriculumSampler._indices

        def watched(self, *args):
            for window in original(self, *args):
                shares.append(window.diet_fraction)
                yield window

        monkeypatch.setattr(CurriculumSampler, "_indices", watched)
        from poyo_ssl_plugin.training.pretraining import Pretraining

        step = Pretraining.training_step

        def counted(self, batch, index):
            n_units.append(int((batch["inputs"]["input_unit_index"] > 0).sum(dim=1).max()))
            return step(self, batch, index)

        monkeypatch.setattr(Pretraining, "training_step", counted)
        config = recipe("pretrain", f"data.curriculum={pacing}", "data.unit_dropout=null", recipe="curriculum")
        pretrain(config)
        # Six steps of eight windows; the last third of the training sees all of the diet.
        assert shares[0] == pytest.approx(0.2) and (shares[40] == 1.0) == opens
        assert (n_units[-1] > n_units[0]) == opens

    def test_everything_is_the_same_but_the_order(self, recipe):
        linear = pretrain(recipe("pretrain", name="a", recipe="curriculum"))
        random = pretrain(recipe("pretrain", "data.curriculum=null", name="b", recipe="curriculum"))
        seen = [read_checkpoint(r.checkpoint)["hyper_parameters"]["trained_on"] for r in (linear, random)]
        assert seen[0] == seen[1]
        assert linear.metrics["valid/masked"] != random.metrics["valid/masked"]

    def test_pacing_by_loss_survives_a_restart(self, recipe, dataset, table):
        config = recipe("pretrain", recipe="curriculum")
        inputs = Inputs.from_recipe(parse_recipe(PretrainRecipe, config))

        def data():
            return PretrainingData(
                dataset, table, Diet.everything(table), inputs.split, task=None, window_length=2.0, batch_size=4,
                curriculum="loss",
            )  # fmt: skip

        before, after = data(), data()
        before.sampler.pacing.stage = 3
        after.load_state_dict(before.state_dict())
        assert after.sampler.pacing.stage == 3

    def test_mistakes(self, recipe, tmp_path):
        for override, message in (
            ("data.curriculum=cubic", "unknown pacing"),
            ("data.curriculum_start=0", "start_fraction"),
            ("data.curriculum_fraction=0", "epochs > 0"),
        ):
            with pytest.raises(DietError, match=message):
                pretrain(recipe("pretrain", override, recipe="curriculum"))
        with pytest.raises(RecipeError, match="nothing to learn from"):
            pretrain(recipe("pretrain", "ssl=none", "aux.weight=0", recipe="curriculum"))
        assert not (tmp_path / "run").exists()
