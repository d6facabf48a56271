from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import PAPER, SIZE, inputs, model

from poyo_ssl_plugin import CalciumPOYO
from poyo_ssl_plugin.compat import (
    Dataset,
    DatasetIndex,
    InfiniteVocabEmbedding,
    RotaryCrossAttention,
    RotarySelfAttention,
    RotaryTimeEmbedding,
    collate,
)
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import CheckpointError, RecipeError, RecordingError
from poyo_ssl_plugin.models import (
    MultitaskReadout,
    PrototypeReadout,
    UnitEmbedding,
    process_latents,
    replace_vocabulary,
    run_with_latents,
)
from poyo_ssl_plugin.models.attention import CrossAttention, SelfAttention


class TestAttention:
    rotary = RotaryTimeEmbedding(head_dim=16, rotate_dim=8, t_min=1e-2, t_max=8.0)

    @pytest.mark.parametrize("rotate_value", [True, False])
    @pytest.mark.parametrize("masked", [True, False])
    def test_cross_attention_equals_torch_brain_s(self, rotate_value, masked):
        options = {"dim": 32, "heads": 2, "dim_head": 16, "rotate_value": rotate_value}
        stock, ours = RotaryCrossAttention(**options), CrossAttention(**options)
        ours.load_state_dict(stock.state_dict())
        query, context = torch.randn(3, 5, 32), torch.randn(3, 12, 32)
        times, shared = torch.rand(3, 5), torch.rand(3, 4)
        mask = torch.rand(3, 12) < 0.7 if masked else None
        whole = self.rotary(shared).repeat(1, 3, 1)
        expected = stock(query, context, self.rotary(times), whole, mask)
        torch.testing.assert_close(ours(query, context, self.rotary(times), whole, mask), expected)
        # The context repeats its times: they need not be given for every neuron.
        torch.testing.assert_close(ours(query, context, self.rotary(times), self.rotary(shared), mask), expected)

    def test_self_attention_and_its_gradients_equal_torch_brain_s(self):
        options = {"dim": 32, "heads": 2, "dim_head": 16, "rotate_value": True}
        stock, ours = RotarySelfAttention(**options), SelfAttention(**options)
        ours.load_state_dict(stock.state_dict())
        x, times = torch.randn(3, 7, 32), self.rotary(torch.rand(3, 7))
        torch.testing.assert_close(ours(x, times), stock(x, times))
        for module in (stock, ours):
            module(x, times).square().sum().backward()
        for a, b in zip(stock.parameters(), ours.parameters()):
            torch.testing.assert_close(a.grad, b.grad)


class TestCalciumPOYO:
    def test_shapes(self):
        assert model()(**inputs()).shape == (3, 2, 8)

    @pytest.mark.parametrize("options", [{"sequence_length": 3.0}, PAPER], ids=["read_in", "attention"])
    def test_padding_changes_nothing(self, options):
        made, plain = model(**options), inputs()
        padded = dict(plain)
        padded["input_values"] = torch.nn.functional.pad(plain["input_values"], (0, 0, 0, 2, 0, 3), value=9.0)
        padded["input_unit_index"] = torch.nn.functional.pad(plain["input_unit_index"], (0, 3))
        padded["input_timestamps"] = torch.nn.functional.pad(plain["input_timestamps"], (0, 2))
        padded["input_mask"] = torch.nn.functional.pad(plain["input_mask"], (0, 2, 0, 3))
        torch.testing.assert_close(made(**padded), made(**plain))
        torch.testing.assert_close(made(**{**plain, "input_mask": None}), made(**plain))

    @pytest.mark.parametrize("options", [{}, PAPER], ids=["read_in", "attention"])
    def test_the_order_of_neurons_does_not_matter(self, options):
        made, plain = model(**options), inputs()
        order = torch.tensor([2, 0, 3, 1])
        shuffled = {
            **plain,
            "input_values": plain["input_values"][:, order],
            "input_unit_index": plain["input_unit_index"][:, order],
        }
        torch.testing.assert_close(made(**shuffled), made(**plain))

    def test_the_read_in_is_a_weighted_sum_over_neurons_and_times(self):
        made, plain = model(sequence_length=3.0), inputs()  # six steps, six patches
        read_in, first = made.read_in, made.encode(**plain)[0]
        torch.nn.init.normal_(read_in.temporal)
        torch.nn.init.normal_(read_in.patch)
        first = made.encode(**plain)[0][1].view(6, 4, 32)
        wanted = torch.zeros(128)
        for n in range(4):
            embedding = made.unit_emb.weight[plain["input_unit_index"][1, n]]
            for p in range(6):
                value = (plain["input_values"][1, n, p] * read_in.patch).sum()
                wanted += read_in.temporal[2, p] * value * (read_in.spatial.weight @ embedding) / 4**0.5
        torch.testing.assert_close(first[2], wanted.view(4, 32) + made.latent_emb.weight)

    def test_a_new_read_in_keeps_the_population_s_geometry(self):
        """Orthogonal embeddings and map: distances between latents are those between patch means."""
        made, plain = model(sequence_length=3.0), inputs(n_windows=8)
        latents = made.encode(**plain)[0].flatten(1)
        means = plain["input_values"].mean(dim=3).flatten(1)
        ratio = torch.pdist(latents) / torch.pdist(means)
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))

    def test_embeddings_are_orthogonal_within_a_recording(self):
        embedding = UnitEmbedding(16, init_scale=0.5)
        embedding.initialize_vocab([f"a/{i}" for i in range(10)] + [f"b/{i}" for i in range(40)])
        few, many = embedding.weight[1:11], embedding.weight[11:]
        torch.testing.assert_close(few @ few.T, 4.0 * torch.eye(10), atol=1e-5, rtol=0)
        torch.testing.assert_close(many.T @ many, 10.0 * torch.eye(16), atol=1e-4, rtol=0)
        assert (embedding.weight[0] == 0).all()

    def test_layers_begin_near_the_identity(self):
        plain = inputs()
        first, rotary = model().encode(**plain)
        moved = [(model(layer_scale=scale).process(first, rotary) - first).norm() for scale in (0.1, None)]
        assert moved[0] < 0.25 * moved[1]

    def test_the_paper_s_model_is_poyo_s_encoder_on_the_paper_s_tokens(self):
        made, plain = model(**PAPER, patch_size=1), inputs(patch=1)
        embedded = made.unit_emb(plain["input_unit_index"])[:, :, None] + made.value_map(plain["input_values"])
        stock = RotaryCrossAttention(dim=32, heads=2, dim_head=16, rotate_value=True)
        stock.load_state_dict(made.enc_atn.state_dict())
        first, rotary = made.encode(**plain)
        start = made.latent_emb.weight.repeat(4, 1).expand(3, -1, -1)
        times = made.rotary_emb(plain["input_timestamps"]).repeat(1, 4, 1)
        latents = start + stock(start, embedded.flatten(1, 2), rotary, times)
        torch.testing.assert_close(first, latents + made.enc_ffn(latents))

    def test_latents_cover_the_window(self):
        for length, step in ((1.9, 0.125), (2.0, 0.5), (1.0, 0.3)):
            _, times = model(sequence_length=length, latent_step=step)._latent_grid(torch.device("cpu"))
            assert times.max() + step / 2 >= length - 1e-6 and times.min() - step / 2 <= 1e-6

    def test_several_tasks(self):
        made = model(dim_out={"direction": 8, "speed": 1}, readout="linear")
        task = torch.tensor([[0, 1], [1, 1], [0, -1]])
        out = made(**inputs(), output_task_index=task)
        assert out["direction"].shape == (2, 8) and out["speed"].shape == (3, 1)
        alone = made(**{k: v[:1] for k, v in inputs().items()}, output_task_index=task[:1])
        torch.testing.assert_close(alone["direction"][0], out["direction"][0])

    @pytest.mark.parametrize(
        "wrong",
        [
            {"encoder": "other"},
            {"readout": "other"},
            {"depth": 0},
            {"patch_size": 0},
            {"latent_step": -1.0},
            {"sequence_length": 0.0},
        ],
    )
    def test_arguments_out_of_range(self, wrong):
        with pytest.raises(RecipeError, match=next(iter(wrong))):
            model(**wrong)

    def test_a_window_in_milliseconds(self):
        with pytest.raises(RecipeError, match=r"in seconds, and 2000 s is too long; .* give 2$"):
            model(sequence_length=2000.0, latent_step=250.0)


class TestTokenize:
    @pytest.fixture
    def made(self, dataset):
        made = CalciumPOYO(**SIZE, dim_out=8, patch_size=10)
        made.init_vocabs(dataset)
        return made

    def test_patches_are_the_traces(self, made, sim_dir):
        window = Recordings(sim_dir)[DatasetIndex("sim_000", 4.0, 6.0)]
        tokens = collate([made.tokenize(window)])
        traces = window.calcium_traces.df_over_f
        np.testing.assert_array_equal(tokens["input_values"][0].flatten(1).numpy(), traces.T)
        np.testing.assert_allclose(tokens["input_timestamps"][0], (np.arange(6) + 0.5) / 3, atol=1e-6)
        words = [list(made.unit_emb.vocab)[i] for i in tokens["input_unit_index"][0]]
        assert words == window.rois.id.tolist()
        assert list(made.session_emb.vocab)[tokens["session_index"][0]] == "sim_000"

    def test_one_frame_more_or_less_costs_no_patch(self, made, sim_dir):
        for end in (5.97, 6.0, 6.04):
            window = Recordings(sim_dir)[DatasetIndex("sim_000", 4.0, end)]
            assert collate([made.tokenize(window)])["input_values"].shape == (1, 20, 6, 10)

    def test_stock_recordings_without_units(self, made, sim_dir):
        """Ids are then those of the file, without the recording."""
        dataset = Recordings(sim_dir)
        stock = CalciumPOYO(**SIZE, dim_out=8, patch_size=10)
        ids = [unit.rpartition("/")[2] for unit in dataset.get_unit_ids()]
        stock.set_vocabs(unit_ids=ids, session_ids=dataset.recording_ids)
        window = Dataset(sim_dir)[DatasetIndex("sim_000", 4.0, 6.0)]
        assert "units" not in window.keys()
        ours = dataset[DatasetIndex("sim_000", 4.0, 6.0)]
        a, b = collate([stock.tokenize(window)]), collate([made.tokenize(ours)])
        for key in a:
            assert torch.equal(a[key], b[key])

    def test_a_batch_of_recordings_of_other_sizes(self, made, sim_dir):
        dataset = Recordings(sim_dir)
        small = dataset[DatasetIndex("sim_000", 4.0, 6.0)]
        from poyo_ssl_plugin.data import keep_units

        keep_units(small, np.arange(20) < 7)
        batch = collate([made.tokenize(small), made.tokenize(dataset[DatasetIndex("sim_001", 4.0, 6.0)])])
        assert batch["input_values"].shape == (2, 20, 6, 10)
        assert batch["input_mask"].sum(dim=(1, 2)).tolist() == [7 * 6, 20 * 6]
        assert made(**batch, output_timestamps=torch.ones(2, 1)).shape == (2, 1, 8)

    def test_what_is_not_in_the_vocabulary(self, made, sim_dir):
        other = CalciumPOYO(**SIZE, dim_out=8)
        window = Recordings(sim_dir)[DatasetIndex("sim_000", 4.0, 6.0)]
        with pytest.raises(RecordingError, match="init_vocabs"):
            other.tokenize(window)
        other.set_vocabs(unit_ids=["x"], session_ids=["sim_000"])
        with pytest.raises(RecordingError, match="'sim_000/sim_000_0000' is not in the model's vocabulary"):
            other.tokenize(window)

    def test_init_vocabs_takes_roi_ids_too(self):
        class Rois:
            recording_ids = ("r",)

            def get_roi_ids(self):
                return ["a", "b"]

        made = CalciumPOYO(**SIZE, dim_out=8)
        made.init_vocabs(Rois())
        assert list(made.unit_emb.vocab) == ["NA", "a", "b"]
        with pytest.raises(RecordingError, match="neither get_unit_ids"):
            CalciumPOYO(**SIZE, dim_out=8).init_vocabs(object())


class TestLoadPretrained:
    def save(self, path, made, **changes) -> None:
        arguments = {**SIZE, "dim_out": 8, "patch_size": 10, "_target_": "somewhere.Else", **changes}
        state = {f"model.{key}": value for key, value in made.state_dict().items()}
        torch.save({"hyper_parameters": {"model": arguments}, "state_dict": state}, path)

    def test_round_trip(self, tmp_path):
        made = model()
        self.save(tmp_path / "c.ckpt", made)
        loaded = CalciumPOYO.load_pretrained(tmp_path / "c.ckpt").eval()
        assert list(loaded.unit_emb.vocab) == list(made.unit_emb.vocab)
        torch.testing.assert_close(loaded(**inputs()), made(**inputs()))

    def test_other_architecture_damage_and_absence(self, tmp_path):
        self.save(tmp_path / "c.ckpt", model(), dim=64)
        with pytest.raises(CheckpointError, match=r"c\.ckpt: not a checkpoint of CalciumPOYO"):
            CalciumPOYO.load_pretrained(tmp_path / "c.ckpt")
        (tmp_path / "d.ckpt").write_bytes(b"nothing")
        for name in ("d.ckpt", "none.ckpt"):
            with pytest.raises(CheckpointError, match=name):
                CalciumPOYO.load_pretrained(tmp_path / name)


class TestLatents:
    def test_they_are_those_of_the_forward_pass(self):
        made, plain = model(), inputs()
        latent_pass = run_with_latents(made, plain)
        first, rotary = made.encode(**plain)
        torch.testing.assert_close(latent_pass.encoder_latents, first)
        torch.testing.assert_close(latent_pass.processor_latents, made.process(first, rotary))
        torch.testing.assert_close(latent_pass.output, made(**plain))
        torch.testing.assert_close(process_latents(made, first, rotary), latent_pass.processor_latents)
        assert not made.dec_atn._forward_pre_hooks and not made.proc_layers[0][0]._forward_pre_hooks

    def test_a_model_of_another_family(self):
        with pytest.raises(RecipeError, match="Linear is not a POYO-family model"):
            run_with_latents(torch.nn.Linear(1, 1), {})


def test_readout_of_regression_and_classification_learns():
    """A value to regress and a class to tell, both from the query alone."""
    torch.manual_seed(0)
    readout = MultitaskReadout(4, {"class": 2, "value": 1})
    queries, task = torch.randn(64, 2, 4), torch.tensor([[0, 1]]).repeat(64, 1)
    label, value = (queries[:, 0, 0] > 0).long(), queries[:, 1, 1:2] * 2 + 1
    optimizer = torch.optim.Adam(readout.parameters(), lr=0.1)
    for _ in range(200):
        out = readout(queries, task)
        loss = torch.nn.functional.cross_entropy(out["class"], label) + (out["value"] - value).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (out["class"].argmax(1) == label).float().mean() > 0.95 and (out["value"] - value).abs().max() < 0.05


def test_prototypes_are_class_means_of_each_recording():
    readout = PrototypeReadout(6, {"direction": 2, "other": 3})
    readout.initialize_vocab(["s", "t"])
    latents = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(0))
    session, label = torch.tensor([1, 1, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 0, 0, 1])
    with torch.no_grad():  # as learned elsewhere
        readout.log_scale["direction"].fill_(4.0)
        readout.log_scale["other"].fill_(5.0)
    readout.fit("direction", latents, session, label)
    scores = readout(latents, session, torch.zeros(6, 1, dtype=torch.long))
    assert scores["other"].shape == (0, 3)
    unit = torch.nn.functional.normalize(latents.flatten(1), dim=1)
    for row in range(6):
        for of in range(2):
            mean = unit[(session == session[row]) & (label == of)].mean(dim=0)
            cosine = unit[row] @ mean / mean.norm()
            torch.testing.assert_close(scores["direction"][row, of], 16 * cosine)
    assert readout.log_scale["other"] == 5.0


class TestReplaceVocabulary:
    def embedding(self) -> InfiniteVocabEmbedding:
        embedding = InfiniteVocabEmbedding(3, init_scale=0.02)
        embedding.initialize_vocab([str(i) for i in range(500)])
        with torch.no_grad():
            embedding.weight[1:] = torch.tensor([1.0, -2.0, 0.0]) + torch.tensor([0.5, 1.0, 2.0]) * torch.randn(500, 3)
        return embedding

    def test_new_words_look_like_the_old_ones(self):
        embedding = self.embedding()
        mean = embedding.weight[1:].mean(dim=0)
        assert replace_vocabulary(embedding, [f"n{i}" for i in range(2000)]) == 0
        new = embedding.weight[1:]
        torch.testing.assert_close(new.mean(dim=0), mean, atol=0.003, rtol=0)
        torch.testing.assert_close(new.std(dim=0), torch.full((3,), 0.02), atol=0, rtol=0.1)
        assert embedding.weight.requires_grad and (embedding.weight[0] == 0).all()
        assert embedding.tokenizer("n3") == 4 and "0" not in embedding.vocab

    def test_known_words_keep_their_vectors(self):
        embedding = self.embedding()
        old = {word: embedding.weight[embedding.vocab[word]].clone() for word in ("7", "499")}
        assert replace_vocabulary(embedding, ["new", "499", "7"]) == 2
        for word, vector in old.items():
            assert torch.equal(embedding.weight[embedding.vocab[word]], vector)

    def test_or_like_new_ones(self):
        embedding = self.embedding()
        replace_vocabulary(embedding, [str(i) for i in range(2000)], source="normal")
        assert embedding.weight[1:].std().item() == pytest.approx(0.02, rel=0.1)
