"""What the learner is for: it lets the population through, its objective learns, and transfer keeps what it learned."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from quick import quick
from tiny import inputs, model

from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction
from poyo_ssl_plugin.compare.references import run_references, template
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.data.splits import repeat_fold
from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.models import PrototypeReadout, ReadIn, model_state, read_checkpoint
from poyo_ssl_plugin.objectives import decorrelation
from poyo_ssl_plugin.predictability import score_dataset
from poyo_ssl_plugin.training import (
    FinetuneRecipe,
    Inputs,
    evaluate,
    finetune,
    parse_recipe,
    prepare_finetuning,
    pretrain,
)
from poyo_ssl_plugin.training.prototypes import guess, start_from_class_means, window_latents
from poyo_ssl_plugin.training.recipe import SelfTraining

SHARED = ("read_in.", "proc_layers.", "latent_emb.")


QUICK = quick(steps=6)


def same(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.fixture(scope="module")
def pretrained(sim_dir, table_path, tmp_path_factory):
    """A checkpoint whose unit embeddings have a mean that no new one has."""
    folder = tmp_path_factory.mktemp("pretrained")
    paths = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={folder}"]
    content = read_checkpoint(pretrain(compose_recipe("pretrain", overrides=quick(*paths, steps=3))).checkpoint)
    content["state_dict"]["model.unit_emb.weight"][1:] += 5.0
    torch.save(content, folder / "shifted.ckpt")
    return folder / "shifted.ckpt"


def template_on_latents(config: DictConfig, inputs: Inputs) -> float:
    """Accuracy of a template on the latents of the untrained model, recording by recording."""
    run = prepare_finetuning(config, inputs)
    train, test = (
        window_latents(run.module.model.eval(), of) for of in (run.data.labelled_windows(), run.data.test_dataloader())
    )
    right = 0
    for session in test.session.unique():
        own, known = test.session == session, train.session == session
        found = template(train.latents[known].numpy(), train.label[known].numpy(), test.latents[own].numpy())
        right += int((found == test.label[own].numpy()).sum())
    return right / len(test.label)


class TestEncoder:
    def test_untrained_latents_tell_nearly_what_the_input_tells(self, recipe):
        config = recipe("finetune", "init_from=null", "task=natural_movie", "diet=all", "model=small")
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        of_input = run_references(parse_recipe(FinetuneRecipe, config), inputs)["template"].right.mean()
        assert of_input > 0.3 and template_on_latents(config, inputs) >= 0.9 * of_input

    def test_untrained_latents_of_the_real_session(self, recipe, real_dir, tmp_path):
        score_dataset(Recordings(real_dir, ["501574836"])).to_csv(tmp_path / "table.csv")
        config = recipe(
            "finetune", "init_from=null", "task=natural_movie", "model=small", "data.recordings=['501574836']",
            f"data.root={real_dir}", f"diet.table={tmp_path / 'table.csv'}", "allow_leak=true",
        )  # fmt: skip
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        inputs.split = repeat_fold(inputs.dataset, "natural_movie_one", 0, 5)
        assert template_on_latents(config, inputs) >= 0.75


class TestObjective:
    LONG = ("aux.task=null", "data.batch_size=16", "diet=all")

    @pytest.mark.parametrize("cut_off", [False, True])
    def test_200_steps_predict_better_than_the_best_constant_but_not_without_input(self, recipe, monkeypatch, cut_off):
        if cut_off:
            slots = lambda made, seen: made.latent_emb.weight.repeat(10, 1).expand(len(seen["input_values"]), -1, -1)  # noqa: E731
            monkeypatch.setattr("poyo_ssl_plugin.objectives.masked_latent.encoder_latents", slots)
        result = pretrain(recipe("pretrain", *self.LONG, steps=200))
        assert (result.metrics["valid/masked_skill"] <= 0) == cut_off

    def test_the_paper_s_model_and_objective_collapse_and_the_run_says_so(self, recipe, caplog):
        size = {"patch_size": 10, "latent_step": 0.5, "num_latents_per_step": 4, "depth": 2, "dim_head": 16}
        overrides = ["model=paper", "ssl=paper", *(f"model.{name}={value}" for name, value in size.items())]
        result = pretrain(recipe("pretrain", *self.LONG, *overrides, steps=100))
        assert "the representation is collapsing" in caplog.text
        assert result.metrics["valid/latent_std"] < 0.05 * result.initial["valid/latent_std"]

    def test_hidden_latents_of_a_step_are_told_apart_by_their_slots(self):
        """Without slots of their own they could not be: all would get the same prediction."""
        made, objective = model(), MaskedLatentReconstruction(32, mask="causal_time", hide_neurons=0.0)

        def spread() -> torch.Tensor:
            result = objective(made, inputs())
            return result.predicted.masked_select(result.hidden).view(3, 2, 4, 32).std(dim=2).max()

        assert spread() > 0.05
        with torch.no_grad():
            made.latent_emb.weight[:] = made.latent_emb.weight[0]
        assert spread() < 1e-6

    def test_decorrelation_of_a_read_in_whitens_and_undoes_decay(self):
        torch.manual_seed(0)
        read_in = ReadIn(n_steps=10, patch_size=1, unit_dim=16, n_slots=2, dim=8)
        units = torch.nn.Parameter(torch.nn.init.orthogonal_(torch.empty(12, 16)) * 4)
        mixing = torch.randn(12, 12) / 12**0.5 + 0.5

        def windows(n: int) -> torch.Tensor:
            source, trace = torch.randn(20, n, 12) @ mixing, [torch.zeros(n, 12)]
            for step in source:
                trace.append(0.8 * trace[-1] + step)
            return torch.stack(trace[-10:], dim=2)[..., None]

        def latents(values: torch.Tensor) -> torch.Tensor:
            return read_in(values, units.expand(len(values), -1, -1))

        def unevenness_and_autocorrelation() -> tuple[float, float]:
            steps = latents(windows(4000)).detach().unflatten(1, (10, 2)).flatten(2)
            # Twelve neurons support twelve directions of sixteen.
            values = torch.linalg.eigvalsh(torch.cov(steps.flatten(0, 1).T))[-12:]
            return float(values.std() / values.mean()), float(
                F.cosine_similarity(steps[:, 1:], steps[:, :-1], -1).mean()
            )

        before = unevenness_and_autocorrelation()
        optimizer = torch.optim.Adam([*read_in.parameters(), units], lr=0.02)
        for _ in range(300):
            optimizer.zero_grad()
            decorrelation(latents(windows(256)), n_steps=10).backward()
            optimizer.step()
        after = unevenness_and_autocorrelation()
        assert before[0] > 1 and after[0] < 0.3 * before[0]
        assert before[1] > 0.5 and abs(after[1]) < 0.2


class TestIdentification:
    ASK = ("init_from=null", "identify.method=unlabelled", "identify.steps=5")

    def test_it_changes_unit_embeddings_only_and_sees_no_label(self, recipe, sim_dir, tmp_path):
        noise = tmp_path / "noise"
        shutil.copytree(sim_dir, noise)
        rng = np.random.default_rng(0)
        for path in noise.glob("*.h5"):
            with h5py.File(path, "r+") as file:
                label = file["drifting_gratings/orientation_id"]
                label[:] = rng.permutation(label[:])
        plain, identified, other = (
            prepare_finetuning(recipe("finetune", *options)).module.model.state_dict()
            for options in ((self.ASK[0],), self.ASK, (*self.ASK, f"data.root={noise}"))
        )
        changed = {name for name, value in plain.items() if not same(value, identified[name])}
        # Prototypes begin as means of latents, which are others now.
        assert {name for name in changed if "prototypes" not in name} == {"unit_emb.weight"}
        assert same(identified["unit_emb.weight"], other["unit_emb.weight"])
        name = "readout.prototypes.drifting_gratings.weight"
        assert not same(identified[name], other[name])

    def test_the_result_says_so(self, recipe):
        result = finetune(recipe("finetune", *self.ASK))
        assert result.leaks["unlabelled"] == {"identified": True, "guessed_trials": 0}
        record = read_checkpoint(result.checkpoint)["hyper_parameters"]
        assert record["unlabelled"]["identified"] and record["recipe"]["identify"]["steps"] == 5

    def test_known_neurons_keep_their_embeddings_and_new_ones_begin_at_the_mean(self, recipe, pretrained):
        made = prepare_finetuning(recipe("finetune", f"init_from={pretrained}", "diet=all", "allow_leak=true"))
        old, embedding = model_state(read_checkpoint(pretrained)), made.module.model.unit_emb
        words = {word for word in embedding.vocab if word != "NA"}
        known = words & set(old["unit_emb.vocab"])
        assert known and words - known
        for word in known:
            assert same(embedding.weight[embedding.vocab[word]], old["unit_emb.weight"][old["unit_emb.vocab"][word]])
        new = embedding.weight[[embedding.vocab[word] for word in words - known]]
        assert new.mean().item() == pytest.approx(old["unit_emb.weight"][1:].mean().item(), abs=0.3)


class TestSelfTraining:
    ASK = ("init_from=null", "task=natural_movie", "diet=all", "label_fraction=0.4", "data.recordings=[sim_000]")

    def test_it_never_sees_the_labels_that_it_guesses(self, recipe, monkeypatch):
        adopted = []
        for garble in (False, True):
            run = prepare_finetuning(recipe("finetune", *self.ASK))
            batches = list(run.data.unlabelled_trials())
            for batch in batches if garble else []:
                batch["target"] = torch.full_like(batch["target"], 3)
            monkeypatch.setattr(run.data, "unlabelled_trials", lambda found=batches: found)
            n = start_from_class_means(run.module.model, run.data, "natural_movie", SelfTraining(rounds=5))
            assert n == sum(len(batch["target"]) for batch in batches) > 20
            adopted.append({name: trials.label for name, trials in run.data.trials("train").items()})
        assert adopted[0].keys() == adopted[1].keys()
        assert all(np.array_equal(label, adopted[1][name]) for name, label in adopted[0].items())

    def test_guesses_are_balanced(self):
        torch.manual_seed(0)
        centres = F.normalize(torch.randn(4, 20), dim=1)
        label = torch.arange(4).repeat_interleave(2)
        # All unlabelled vectors lean to the first class.
        rows = F.normalize(centres.repeat(25, 1) + 0.8 * centres[0] + 0.1 * torch.randn(100, 20), dim=1)
        weights = guess(rows, centres[label], label, 4, SelfTraining(rounds=10))
        torch.testing.assert_close(weights.sum(dim=0), torch.full((4,), 25.0), atol=1.0, rtol=0)
        assert (weights.argmax(dim=1) == torch.arange(4).repeat(25)).float().mean() > 0.95

    def test_with_all_labels_it_changes_nothing(self, recipe):
        plain, guessed = (
            finetune(recipe("finetune", "init_from=null", f"self_training.rounds={rounds}", name=str(rounds)))
            for rounds in (0, 5)
        )
        assert guessed.leaks["unlabelled"]["guessed_trials"] == 0 and plain.predictions == guessed.predictions
        a, b = (model_state(read_checkpoint(result.checkpoint)) for result in (plain, guessed))
        assert all(same(value, b[name]) for name, value in a.items())


class TestTransfer:
    @pytest.mark.parametrize(("transfer", "last_still"), [("probe", 6), ("lp_ft", 3), ("full", 0)])
    def test_when_shared_weights_move(self, recipe, pretrained, transfer, last_still):
        options = [f"init_from={pretrained}", f"transfer={transfer}", "probe_fraction=0.5"]
        result = finetune(recipe("finetune", *options, "trainer.trajectory_every_n_steps=1"))
        states = {
            content["global_step"]: model_state(content)
            for content in map(read_checkpoint, (result.out_dir / "trajectory").iterdir())
        }
        assert sorted(states) == [1, 2, 3, 4, 5, 6]
        before = {k: v for k, v in model_state(read_checkpoint(pretrained)).items() if k.startswith(SHARED)}
        still = [step for step, state in states.items() if all(same(v, state[k]) for k, v in before.items())]
        assert sorted(still) == list(range(1, last_still + 1))
        for name in ("unit_emb.weight", "readout.prototypes.drifting_gratings.weight"):
            assert not same(states[1][name], states[6][name])


def test_prototypes_are_those_of_the_recording():
    readout = PrototypeReadout(12, {"direction": 4})
    readout.initialize_vocab(["s", "t"])
    latents, session, task = torch.randn(4, 3, 4), torch.tensor([1, 2, 1, 2]), torch.zeros(4, 1, dtype=torch.long)
    before = readout(latents, session, task)["direction"]
    with torch.no_grad():
        readout.prototypes["direction"].weight[2].normal_()
    after = readout(latents, session, task)["direction"]
    assert torch.equal(before[::2], after[::2]) and not torch.isclose(before[1::2], after[1::2]).any()


def test_a_checkpoint_of_the_old_encoder_is_refused(recipe, pretrained, tmp_path):
    content = read_checkpoint(pretrained)
    content["hyper_parameters"]["model"] |= {"token": "gated"}
    content["state_dict"]["model.value_map.weight"] = torch.zeros(32, 6)
    path = tmp_path / "old.ckpt"
    torch.save(content, path)
    for use in (CalciumPOYO.load_pretrained, evaluate, lambda of: finetune(recipe("finetune", f"init_from={of}"))):
        with pytest.raises(CheckpointError, match=r"old\.ckpt: written by an older version.*'gated'.*pretrain again"):
            use(path)
    assert not (tmp_path / "run").exists()
