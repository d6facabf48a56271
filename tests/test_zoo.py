"""Every POYO, of either generation of torch_brain, pretrains and fine-tunes as CalciumPOYO does."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_brain.models
from left_behind import assert_equal, weights
from omegaconf import DictConfig

from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction
from poyo_ssl_plugin.compat import GENERATION, POYO, DatasetIndex
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, get_task
from poyo_ssl_plugin.errors import CheckpointError, RecipeError
from poyo_ssl_plugin.models import adapt, adapter_class, process_latents, run_with_latents
from poyo_ssl_plugin.predictability import Diet, PredictabilityTable, score_dataset
from poyo_ssl_plugin.training import evaluate, finetune, model_state, pretrain, read_checkpoint
from poyo_ssl_plugin.training.tokens import TaskTokenizer, answered, collate_windows

# The names are the recipes' model=...; all but the first are torch_brain's own.
SPIKES = {"poyo": "POYO", "poyo_plus": "POYOPlus"}
STOCK = {**SPIKES, "calcium_poyo_plus": "CalciumPOYOPlus"}
HERE = ["small", *(recipe for recipe, name in STOCK.items() if hasattr(torch_brain.models, name))]

SIZE = {
    "sequence_length": 1.0,
    "latent_step": 0.25,
    "num_latents_per_step": 4,
    "dim": 16,
    "depth": 1,
    "dim_head": 8,
    "cross_heads": 2,
    "self_heads": 2,
}
QUICK = [
    *(f"model.{key}={value}" for key, value in SIZE.items() if key != "sequence_length"),
    "data.window_length=1.0",
    "data.batch_size=16",
    "trainer.max_steps=-1",
    "trainer.max_epochs=1",
    "trainer.val_every_n_steps=5",
    "trainer.progress=false",
    "trainer.tensorboard=false",
    "trainer.accelerator=cpu",
]


@pytest.fixture
def recipe(sim_dir, spike_dir, table_path, spike_table_path, tmp_path):
    def make(command: str, model: str, *overrides: str, name: str = "run", recipe: str | None = None) -> DictConfig:
        root, table = (spike_dir, spike_table_path) if model in SPIKES else (sim_dir, table_path)
        place = [f"data.root={root}", f"diet.table={table}", f"out_dir={tmp_path / name}", f"model={model}"]
        return compose_recipe(command, recipe, [*place, *QUICK, *overrides])

    return make


def make(kind: str, tasks: dict[str, int] | None = None, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    cls = CalciumPOYO if kind == "small" else getattr(torch_brain.models, STOCK[kind])
    return cls(**{**SIZE, **options}, **adapter_class(cls).readout(tasks or {}))


def stock_vocabs(model: torch.nn.Module, dataset: Recordings) -> None:
    model.unit_emb.initialize_vocab(dataset.get_unit_ids())
    model.session_emb.initialize_vocab(dataset.recording_ids)


def test_the_generation_has_the_models_it_should():
    assert (["small", "poyo"] if GENERATION == "0.2" else ["small", *STOCK]) == HERE


@pytest.mark.parametrize("kind", HERE)
class TestEveryModel:
    def test_pretrains_and_fine_tunes_an_epoch(self, kind, recipe):
        # The thresholds of calcium do not split these counts in two.
        diets = ["diet.skewness=3.0"] if kind in SPIKES else []
        pretrained = pretrain(recipe("pretrain", kind, *diets, name="p"))
        assert read_checkpoint(pretrained.checkpoint)["loops"]["fit_loop"]["epoch_progress"]["total"]["completed"] == 1
        for name in ("train/masked", "train/auxiliary", "valid/effective_rank"):
            assert math.isfinite(pretrained.metrics[name]), name
        start = f"init_from={pretrained.checkpoint}"
        result = finetune(recipe("finetune", kind, start, *diets, name="f"))
        assert 0 <= result.metrics["test/accuracy"] <= 1 and len(result.predictions) > 10
        assert {"proc_layers.0.0.to_qkv.weight", "latent_emb.weight"} <= set(result.loaded.loaded)
        assert not result.loaded.skipped and not result.loaded.fresh
        before, after = (model_state(read_checkpoint(r.checkpoint)) for r in (pretrained, result))
        assert not set(before["unit_emb.vocab"]) & set(after["unit_emb.vocab"]) - {"NA"}
        again = evaluate(result.checkpoint)
        assert again.predictions == result.predictions

    def test_pretrains_without_a_task_and_fine_tunes_another(self, kind, recipe):
        quick = ["trainer.max_epochs=null", "trainer.max_steps=2"]
        pretrained = pretrain(recipe("pretrain", kind, "aux.weight=0", *quick, name="p"))
        assert "train/auxiliary" not in pretrained.metrics
        start = [f"init_from={pretrained.checkpoint}", "diet=all", "allow_leak=true"]
        result = finetune(recipe("finetune", kind, *start, *quick, name="f", recipe="natural_movie"))
        assert result.task == "natural_movie" and len(result.predictions) > 10

    def test_the_objective_sees_its_latents(self, kind, sim_dir, spike_dir):
        model = make(kind).eval()
        dataset = Recordings(spike_dir if kind in SPIKES else sim_dir)
        model.init_vocabs(dataset) if kind == "small" else stock_vocabs(model, dataset)
        window = TaskTokenizer(adapt(model), None)
        batch = collate_windows([window(dataset[DatasetIndex("sim_000", t, t + 1.0)]) for t in (5.0, 9.0)])
        latent_pass = run_with_latents(model, batch["inputs"])
        assert latent_pass.encoder_latents.shape == latent_pass.processor_latents.shape == (2, 16, 16)
        again = process_latents(model, latent_pass.encoder_latents, latent_pass.rotary)
        torch.testing.assert_close(again, latent_pass.processor_latents)
        loss = MaskedLatentReconstruction(16)(model, batch["inputs"]).loss
        loss.backward()
        encoder = model.read_in.spatial if kind == "small" else model.enc_atn.to_kv
        assert model.unit_emb.weight.grad.abs().sum() > 0 and encoder.weight.grad.abs().sum() > 0

    def test_answers_are_in_the_order_of_the_targets(self, kind, sim_dir, spike_dir):
        """Windows with different numbers of queries: each answer is that of its window asked alone."""
        task = get_task("drifting_gratings")
        model = make(kind, {task.name: 8}).eval()
        dataset = Recordings(spike_dir if kind in SPIKES else sim_dir)
        model.init_vocabs(dataset) if kind == "small" else stock_vocabs(model, dataset)
        adapter, grating = adapt(model), dataset.get_recording("sim_000").drifting_gratings
        window = TaskTokenizer(adapter, task)
        starts = [float(grating.start[4]), float(grating.end[4]) + 0.4, float(grating.start[8]) - 2.0]
        lengths = [7.5, 1.0, 4.0]

        def batch(*which: int) -> dict:
            indices = [DatasetIndex("sim_000", starts[i], starts[i] + lengths[i]) for i in which]
            return collate_windows([window(dataset[index]) for index in indices])

        whole = batch(0, 1, 2)
        logits, target = answered(adapter, model(**whole["inputs"]), whole, task.name)
        counts = whole["asked"].sum(dim=1).tolist()
        assert counts[0] > 1 and counts[1] == 1 and logits.shape == (sum(counts), 8) and len(target) == sum(counts)
        assert target[counts[0]] == -100 and (target[: counts[0]] >= 0).all()
        first = 0
        for i, n in enumerate(counts):
            alone = batch(i)
            expected, label = answered(adapter, model(**alone["inputs"]), alone, task.name)
            torch.testing.assert_close(logits[first : first + n], expected, atol=1e-4, rtol=1e-4)
            assert target[first : first + n].tolist() == label.tolist()
            first += n


class TestCheckpointsOfTorchBrain:
    """Checkpoints as torch_brain's own Lightning script writes them."""

    def save(self, path: Path, model: torch.nn.Module, **changes) -> Path:
        arguments = {**SIZE, "_target_": "torch_brain.models.POYO", **changes}
        state = {f"model.{key}": value for key, value in model.state_dict().items()}
        hyper_parameters = {"model": arguments, "optim": {"base_lr": 1e-3}, "batch_size": 128, "seed": 42}
        torch.save({"state_dict": state, "hyper_parameters": hyper_parameters, "epoch": 3}, path)
        return path

    def spiking(self) -> torch.nn.Module:
        model = make("poyo", {"x": 2})
        model.unit_emb.initialize_vocab([f"other/{i}" for i in range(7)])
        model.session_emb.initialize_vocab(["other"])
        return model

    def test_init_from_one(self, recipe, tmp_path, caplog):
        """A POYO of a velocity task: everything but the readout is taken, the neurons are exchanged."""
        stock = self.spiking()
        path = self.save(tmp_path / "stock.ckpt", stock)
        caplog.set_level("INFO", "poyo_ssl_plugin")
        result = finetune(recipe("finetune", "poyo", f"init_from={path}", "diet=all", "transfer=probe"))
        assert set(result.loaded.skipped) == {"readout.weight", "readout.bias"}
        assert result.loaded.skipped["readout.weight"] == "shape (2, 16), the model's is (8, 16)"
        assert set(result.loaded.fresh) == {"readout.weight", "readout.bias"}
        after = model_state(read_checkpoint(result.checkpoint))
        assert torch.equal(after["proc_layers.0.0.to_qkv.weight"], stock.proc_layers[0][0].to_qkv.weight)
        assert "sim_000/sim_000_0000" in after["unit_emb.vocab"] and "other/0" not in after["unit_emb.vocab"]
        assert "readout.weight (shape (2, 16)" in caplog.text and "leaks cannot be excluded" in caplog.text

    def test_a_spiking_poyo_gives_a_calcium_poyo_its_transformer(self, recipe, tmp_path):
        path = self.save(tmp_path / "stock.ckpt", self.spiking())
        result = pretrain(recipe("pretrain", "paper", f"init_from={path}", "trainer.max_steps=1"))
        assert {"proc_layers.0.1.1.net.0.weight", "enc_atn.to_kv.weight"} <= set(result.loaded.loaded)
        assert "unit_emb.weight" in result.loaded.loaded
        assert result.loaded.skipped["token_type_emb.weight"] == "not in the model"
        assert "value_map.weight" in result.loaded.fresh
        with pytest.raises(CheckpointError, match=r"stock\.ckpt: another architecture.*use the same model="):
            pretrain(recipe("pretrain", "small", f"init_from={path}", name="small"))

    def test_another_architecture(self, recipe, tmp_path):
        path = self.save(tmp_path / "stock.ckpt", self.spiking())
        with pytest.raises(RecipeError, match=r"stock\.ckpt holds a model of depth=1, not 2"):
            recipe("pretrain", "poyo", f"init_from={path}", "model.depth=2")

    @pytest.mark.parametrize(
        ("change", "skipped"),
        [
            ({"model.unit_emb.vocab": {"a": 1}}, {"unit_emb.weight": "not a vocabulary"}),
            ({"model.unit_emb.vocab": "abc"}, {"unit_emb.weight": "not a vocabulary"}),
            ({"model.unit_emb.weight": 3}, {"unit_emb.weight": "not a vocabulary"}),
            ({"model.dec_ffn.0.weight": [1, 2]}, {"dec_ffn.0.weight": "not a tensor"}),
        ],
    )
    def test_parts_that_are_not_what_they_should_be_are_left(self, recipe, tmp_path, change, skipped):
        path = self.save(tmp_path / "stock.ckpt", self.spiking())
        content = read_checkpoint(path)
        content["state_dict"] |= change
        torch.save(content, path)
        result = pretrain(recipe("pretrain", "poyo", f"init_from={path}", "trainer.max_steps=1", "aux.weight=0"))
        assert skipped.items() <= result.loaded.skipped.items()

    @pytest.mark.skipif(GENERATION != "0.2", reason="torch_brain 0.1 asks load_pretrained for a ModalitySpec")
    def test_torch_brain_loads_what_we_trained(self, recipe):
        result = pretrain(recipe("pretrain", "poyo", "trainer.max_steps=1", "trainer.max_epochs=null"))
        stock, ours = POYO.load_pretrained(result.checkpoint).state_dict(), weights(result.checkpoint)
        assert_equal(ours, {name: stock[name] for name in ours})

    @pytest.mark.skipif(GENERATION != "0.2", reason="torch_brain 0.1 asks load_pretrained for a ModalitySpec")
    def test_load_pretrained_keeps_poyo_s_contract(self, tmp_path):
        """The same file, but for the class, through both: dim_out from the weights, words, train mode, str or Path."""
        loaded = {}
        for cls, made in ((POYO, self.spiking()), (CalciumPOYO, make("small", {"x": 2}))):
            if cls is CalciumPOYO:
                made = CalciumPOYO(**SIZE, dim_out=2)
                made.unit_emb.initialize_vocab(["a", "b"])
                made.session_emb.initialize_vocab(["s"])
            path = self.save(tmp_path / f"{cls.__name__}.ckpt", made)
            loaded[cls] = [cls.load_pretrained(path), cls.load_pretrained(str(path))]
            for again in loaded[cls]:
                assert type(again) is cls and again.training and again.readout.out_features == 2
                assert list(again.unit_emb.vocab) == list(made.unit_emb.vocab)
                for name, value in made.state_dict().items():
                    if isinstance(value, torch.Tensor):
                        assert torch.equal(again.state_dict()[name], value)
            for wrong in ({"dim": 32}, {"nonsense": 1}):
                self.save(path, made, **wrong)
                with pytest.raises((RuntimeError, TypeError, CheckpointError)):
                    cls.load_pretrained(path)

    def test_a_pickle_is_never_run(self, recipe, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        path = self.save(tmp_path / "bomb.ckpt", self.spiking())
        content = read_checkpoint(path)
        for place in ("hyper_parameters", "state_dict", "callbacks"):
            evil = copy.copy(content)
            evil[place] = {**evil.get(place, {}), "bomb": Bomb()}
            torch.save(evil, path)
            with pytest.raises(CheckpointError, match=r"bomb\.ckpt: refused, since it holds Python objects"):
                pretrain(recipe("pretrain", "poyo", f"init_from={path}"))
            with pytest.raises(CheckpointError, match=r"bomb\.ckpt: refused"):
                CalciumPOYO.load_pretrained(path)
            with pytest.raises(CheckpointError, match=r"bomb\.ckpt: refused"):
                evaluate(path)
        assert not (tmp_path / "exploded").exists() and not (tmp_path / "run").exists()


class TestMistakes:
    def test_a_model_of_another_family(self, recipe):
        with pytest.raises(RecipeError, match="Linear is not a POYO-family model"):
            pretrain(recipe("pretrain", "small", "model._target_=torch.nn.Linear"))

    @pytest.mark.skipif(GENERATION != "0.2", reason="torch_brain 0.1 has it")
    def test_a_model_of_the_other_generation(self, recipe):
        with pytest.raises(RecipeError, match="POYOPlus.*only in torch_brain 0.1"):
            pretrain(recipe("pretrain", "poyo_plus"))

    def test_one_readout_for_two_tasks(self):
        with pytest.raises(RecipeError, match="POYO has one readout, not one for each of a, b"):
            adapter_class(POYO).readout({"a": 2, "b": 3})

    def test_a_diet_of_traces_for_a_model_of_spikes_is_said(self, recipe, table_path, caplog):
        config = recipe("pretrain", "poyo", "trainer.max_steps=1", f"diet.table={table_path}", "aux.weight=0")
        pretrain(config)
        assert "scored on calcium_traces.df_over_f, and POYO is fed spikes" in caplog.text


class TestRealSpikes:
    """Session 501574836: 200,905 spikes of 242 cells in 64 minutes."""

    def test_predictability_on_counts(self, real_dir):
        table = score_dataset(Recordings(real_dir, ["501574836"]), field="spikes", bin_width=0.1)
        assert len(table) == 242 and table.ok.all() and table.provenance["bin_width"] == 0.1
        again = counts(real_dir, 0.1)
        from scipy import stats

        np.testing.assert_allclose(table["skewness"], stats.skew(again), rtol=1e-9)
        np.testing.assert_allclose(table["kurtosis"], stats.kurtosis(again), rtol=1e-9)

    def test_poyo_pretrains_on_the_predictable_and_fine_tunes_on_the_others(self, real_dir, tmp_path):
        path = tmp_path / "spikes.csv"
        table = score_dataset(Recordings(real_dir, ["501574836"]), field="spikes", bin_width=1.0)
        table.to_csv(path)
        assert 0 < len(Diet.from_thresholds(PredictabilityTable.load(path))) < 242
        common = [f"data.root={real_dir}", "data.recordings=['501574836']", f"diet.table={path}", "model=poyo", *QUICK]
        steps = ["trainer.max_epochs=null", "trainer.max_steps=10"]
        result = pretrain(compose_recipe("pretrain", None, [*common, *steps, f"out_dir={tmp_path / 'p'}"]))
        assert math.isfinite(result.metrics["valid/masked"]) and result.metrics["valid/effective_rank"] > 1
        fine = [*common, *steps, f"out_dir={tmp_path / 'f'}", f"init_from={result.checkpoint}"]
        tuned = finetune(compose_recipe("finetune", "natural_movie", fine))
        assert len(tuned.predictions) >= 30


def counts(real_dir: Path, width: float) -> np.ndarray:
    """Spikes in whole bins of the training intervals, counted the plain way."""
    data = Recordings(real_dir, ["501574836"]).get_recording("501574836")
    times, unit = np.asarray(data.spikes.timestamps), np.asarray(data.spikes.unit_index)
    rows = []
    for start, end in zip(data.train_domain.start, data.train_domain.end):
        edges = start + width * np.arange(math.floor((end - start) / width + 1e-9) + 1)
        rows.append(np.stack([np.histogram(times[unit == u], edges)[0] for u in range(242)], axis=1))
    return np.concatenate(rows).astype(float)
