"""Weights that travel: folders, the Hub, and checkpoints of torch_brain's Calcium POYO+."""

from __future__ import annotations

import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import yaml
from quick import quick

from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compat import FeedForward, RotaryCrossAttention, RotarySelfAttention, RotaryTimeEmbedding
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.errors import CheckpointError
from poyo_ssl_plugin.models.poyo_plus import arguments_of, as_calcium_poyo
from poyo_ssl_plugin.models.weights import load_weights
from poyo_ssl_plugin.training import pretrain

SMALL = {"sequence_length": 1.0, "latent_step": 0.25, "dim": 16, "depth": 1, "dim_head": 8, "patch_size": 5}


def small_model(**changes):
    model = CalciumPOYO(**{"dim_out": {"direction": 8}, **SMALL, **changes})
    model.set_vocabs(unit_ids=["a/0", "a/1"], session_ids=["a"])
    return model


class TestFolder:
    def test_it_comes_back_as_it_was(self, tmp_path):
        model = small_model(encoder="attention", readout="linear", layer_scale=None)
        back = CalciumPOYO.from_pretrained(model.save_pretrained(tmp_path / "saved"))
        assert back.arguments == model.arguments
        for name, value in model.state_dict().items():
            torch.testing.assert_close(back.state_dict()[name], value)
        assert {path.name for path in (tmp_path / "saved").iterdir()} == {
            "model.safetensors",
            "config.json",
            "README.md",
        }

    def test_the_card_says_what_a_pretrained_model_has_seen(self, sim_dir, table_path, tmp_path):
        place = [f"data.root={sim_dir}", f"diet.table={table_path}", f"out_dir={tmp_path / 'run'}"]
        checkpoint = pretrain(compose_recipe("pretrain", None, [*quick(steps=1), *place])).checkpoint
        model = CalciumPOYO.from_pretrained(checkpoint)
        CalciumPOYO.from_pretrained(model.save_pretrained(tmp_path / "one")).save_pretrained(
            tmp_path / "two", scores={"accuracy on held-out trials": 0.75}
        )
        card = (tmp_path / "two" / "README.md").read_text()
        header = yaml.safe_load(card.split("---")[1])
        assert header["library_name"] == "poyo-ssl-plugin"
        for said in ("recording sim_000 (subject", "rule: predictable", "skewness: 3.51", "held-out trials: 0.75",
                     "scoring.split: train", "max_steps: 1"):  # fmt: skip
            assert said in card, said
        assert str(tmp_path) not in card and str(sim_dir) not in card

    def test_without_neurons_there_is_nothing_to_save(self, tmp_path):
        model = CalciumPOYO(dim_out=1, **SMALL)
        with pytest.raises(CheckpointError, match="no vocabulary yet"):
            model.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved").exists()

    @pytest.mark.parametrize("name", ["nowhere/at/all", "missing.ckpt", "."])
    def test_what_is_not_there(self, tmp_path, monkeypatch, name):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            CalciumPOYO.from_pretrained(name)


class TestHub:
    """Against a stand-in that keeps repositories in a folder; nothing is sent anywhere."""

    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        import shutil

        def snapshot_download(repo_id, revision=None, allow_patterns=None):
            if not (tmp_path / repo_id).is_dir():
                raise OSError("404: no such repository")
            return str(tmp_path / repo_id)

        class Api:
            def create_repo(self, repo_id, private, exist_ok):
                (tmp_path / repo_id).mkdir(parents=True)

            def upload_folder(self, repo_id, folder_path, commit_message):
                shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
                return f"https://hub/{repo_id}/commit/1"

        stand_in = SimpleNamespace(snapshot_download=snapshot_download, HfApi=Api)
        monkeypatch.setitem(sys.modules, "huggingface_hub", stand_in)

    def test_there_and_back(self, hub):
        model = small_model()
        assert model.push_to_hub("lab/mouse").endswith("lab/mouse/commit/1")
        assert CalciumPOYO.from_pretrained("lab/mouse").unit_emb.vocab == model.unit_emb.vocab

    def test_no_such_repository(self, hub):
        with pytest.raises(CheckpointError, match="lab/none: no such file or folder, and the Hugging Face Hub"):
            CalciumPOYO.from_pretrained("lab/none")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(CheckpointError, match=r"pip install 'poyo-ssl-plugin\[hub\]'"):
            CalciumPOYO.from_pretrained("lab/mouse")

    def test_the_functions_that_are_called_exist(self):
        hub = pytest.importorskip("huggingface_hub")
        import inspect

        assert {"revision", "allow_patterns"} <= set(inspect.signature(hub.snapshot_download).parameters)
        assert {"repo_id", "folder_path", "commit_message"} <= set(
            inspect.signature(hub.HfApi.upload_folder).parameters
        )
        assert {"private", "exist_ok"} <= set(inspect.signature(hub.HfApi.create_repo).parameters)


PLUS = {"sequence_length": 1.0, "latent_step": 0.125, "num_latents_per_step": 32, "dim": 128, "depth": 24,
        "dim_head": 64, "cross_heads": 4, "self_heads": 8, "ffn_dropout": 0.2, "lin_dropout": 0.4, "atn_dropout": 0.2,
        "emb_init_scale": 0.02, "t_min": 1e-4, "t_max": 2.0627}  # fmt: skip
TASKS = {"DRIFTING_GRATINGS_ORIENTATION": 8, "RUNNING_SPEED": 1}


def plus_state(arguments=PLUS, n_units=5, seed=0):
    """Weights in the layout of the public Calcium POYO+, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    dim, vocabulary = arguments["dim"], ["NA", *(f"u{i}" for i in range(n_units))]
    ours = CalciumPOYO(**arguments_of({f"readout.projections.{k}.weight": torch.zeros(n, 1) for k, n in TASKS.items()},
                                      arguments))  # fmt: skip
    shared = ("latent_emb.", "enc_atn.", "enc_ffn.", "proc_layers.", "dec_atn.", "dec_ffn.", "readout.projections.")
    shapes = {k: v.shape for k, v in ours.state_dict().items() if k.startswith(shared) and torch.is_tensor(v)}
    shapes |= {"input_value_map.weight": (dim // 2, 1), "input_value_map.bias": (dim // 2,),
               "unit_emb.weight": (n_units + 1, dim // 2), "session_emb.weight": (2, dim),
               "token_type_emb.weight": (4, dim), "task_emb.weight": (len(TASKS) + 1, dim)}  # fmt: skip
    state = {k: torch.randn(tuple(s), generator=generator) * 0.1 for k, s in shapes.items()}
    state["rotary_emb.omega"] = ours.rotary_emb.omega.clone()
    state["unit_emb.vocab"] = OrderedDict((word, i) for i, word in enumerate(vocabulary))
    state["session_emb.vocab"] = OrderedDict(NA=0, mouse=1)
    return state


def test_the_layout_is_torch_brain_s():
    """The parts that a CalciumPOYOPlus is made of are named as ours are."""
    stock = RotaryCrossAttention(dim=16, heads=2, dim_head=8, dropout=0.0, rotate_value=True).state_dict()
    ours = small_model(encoder="attention", layer_scale=None)
    assert set(stock) == set(ours.enc_atn.state_dict())
    stock = RotarySelfAttention(dim=16, heads=4, dim_head=8, dropout=0.0, rotate_value=True).state_dict()
    assert set(stock) == set(ours.proc_layers[0][0].state_dict())


class TestCalciumPOYOPlus:
    @pytest.fixture(scope="class")
    @staticmethod
    def checkpoint(tmp_path_factory):
        path = tmp_path_factory.mktemp("plus") / "calcium_poyo_plus.ckpt"
        state = {f"model.{name}": value for name, value in plus_state().items()}
        model = {"_target_": "torch_brain.models.CalciumPOYOPlus", **PLUS}
        # As Lightning keeps what OmegaConf.to_container gives.
        torch.save({"state_dict": state, "hyper_parameters": {"model": model, "batch_size": 8}, "epoch": 3}, path)
        return path

    def test_it_loads_as_it_is(self, checkpoint):
        model = CalciumPOYO.from_pretrained(checkpoint)
        assert (model.encoder, model.patch_size, model.dim, len(model.proc_layers)) == ("attention", 1, 128, 24)
        assert list(model.unit_emb.vocab) == ["NA", "u0", "u1", "u2", "u3", "u4"]
        assert model.readout.dims_out() == TASKS

    def test_tokens_and_queries_are_the_same(self):
        state = plus_state()
        model = CalciumPOYO(**arguments_of(state, PLUS)).eval()
        model.set_vocabs(unit_ids=[f"u{i}" for i in range(5)], session_ids=["mouse"])
        model.load_state_dict(as_calcium_poyo(state))
        values, units = torch.randn(2, 5, 30, 1), torch.arange(1, 6).expand(2, -1)
        # The tokens of Calcium POYO+: the map of the sample beside the neuron's vector.
        mapped = values @ state["input_value_map.weight"].T + state["input_value_map.bias"]
        beside = state["unit_emb.weight"][units][:, :, None].expand(-1, -1, 30, -1)
        torch.testing.assert_close(
            model.value_map(values) + model.unit_emb(units)[:, :, None], torch.cat([mapped, beside], dim=-1)
        )
        asked = torch.tensor([[0, 1]])
        torch.testing.assert_close(model.readout.embed(asked)[0], state["task_emb.weight"][1:])

    def test_it_decodes_the_same(self):
        """Against a forward pass written with torch_brain's own modules: tokens side by side, one query a task."""
        arguments = {**PLUS, "dim": 32, "depth": 2, "dim_head": 16, "num_latents_per_step": 3}
        state = plus_state(arguments)
        model = CalciumPOYO(**arguments_of(state, arguments)).eval()
        model.set_vocabs(unit_ids=[f"u{i}" for i in range(5)], session_ids=["mouse"])
        model.load_state_dict(as_calcium_poyo(state))
        values, times, asked = (
            torch.randn(1, 4, 10, 1),
            (torch.arange(10.0)[None] + 0.5) / 10,
            torch.tensor([[0.3, 0.6]]),
        )
        units = torch.tensor([[1, 3, 4, 5]])
        answers = model(
            input_values=values, input_unit_index=units, input_timestamps=times, input_mask=None,
            session_index=torch.tensor([1]), output_timestamps=asked, output_task_index=torch.tensor([[0, 1]]),
        )  # fmt: skip

        def part(stock, name):
            stock.load_state_dict({k[len(name) :]: v for k, v in state.items() if k.startswith(name)})
            return stock.eval()

        def feed_forward(name):
            return part(torch.nn.Sequential(torch.nn.LayerNorm(32), FeedForward(dim=32)), name)

        sizes = {"dim": 32, "dim_head": 16, "dropout": 0.0}
        rotary = RotaryTimeEmbedding(head_dim=16, rotate_dim=8, t_min=1e-4, t_max=2.0627)
        mapped = values @ state["input_value_map.weight"].T + state["input_value_map.bias"]
        beside = state["unit_emb.weight"][units][:, :, None].expand(-1, -1, 10, -1)
        tokens = torch.cat([mapped, beside], dim=-1).flatten(1, 2)
        latent_times = (torch.arange(8.0) / 8 + 1 / 16).repeat_interleave(3)[None]
        latents, at = state["latent_emb.weight"].repeat(8, 1)[None], rotary(latent_times)
        encoder = part(RotaryCrossAttention(**sizes, heads=4, rotate_value=True), "enc_atn.")
        latents = latents + encoder(latents, tokens, at, rotary(times.repeat(1, 4)))
        latents = latents + feed_forward("enc_ffn.")(latents)
        for i in range(2):
            layer = part(RotarySelfAttention(**sizes, heads=8, rotate_value=True), f"proc_layers.{i}.0.")
            latents = latents + layer(latents, at)
            latents = latents + feed_forward(f"proc_layers.{i}.1.")(latents)
        queries = state["session_emb.weight"][1] + state["task_emb.weight"][1:][None]
        decoder = part(RotaryCrossAttention(**sizes, heads=4, rotate_value=False), "dec_atn.")
        queries = queries + decoder(queries, latents, rotary(asked), at)
        queries = queries + feed_forward("dec_ffn.")(queries)
        for i, name in enumerate(TASKS):
            expected = part(torch.nn.Linear(32, TASKS[name]), f"readout.projections.{name}.")(queries[:, i])
            torch.testing.assert_close(answers[name], expected, rtol=1e-4, atol=1e-5)

    def test_a_model_of_one_s_own_takes_what_it_shares(self, checkpoint):
        arguments = {k: v for k, v in PLUS.items() if k != "t_max"}
        model = CalciumPOYO(dim_out={"DRIFTING_GRATINGS_ORIENTATION": 8, "speed": 2}, encoder="attention",
                            readout="linear", layer_scale=None, patch_size=6, **arguments)  # fmt: skip
        state = plus_state()
        report = load_weights(model, state, source=checkpoint)
        torch.testing.assert_close(model.proc_layers[23][0].to_out.weight, state["proc_layers.23.0.to_out.weight"])
        assert {"unit_emb.weight", "latent_emb.weight", "readout.queries.DRIFTING_GRATINGS_ORIENTATION"} <= set(
            report.loaded
        )
        assert report.skipped["readout.queries.RUNNING_SPEED"] == "not in the model"
        assert report.skipped["value_map.weight"] == "shape (128, 1), the model's is (128, 6)"
        assert "readout.projections.speed.weight" in report.fresh

    def test_another_architecture_is_refused(self, checkpoint):
        with pytest.raises(CheckpointError, match="another architecture"):
            load_weights(small_model(), plus_state(), source=checkpoint)

    def test_objects_in_it_are_refused(self, tmp_path):
        torch.save({"state_dict": {}, "hyper_parameters": {"model": SimpleNamespace(dim=128)}}, tmp_path / "x.ckpt")
        with pytest.raises(CheckpointError, match="refused, since it holds Python objects"):
            CalciumPOYO.from_pretrained(tmp_path / "x.ckpt")
