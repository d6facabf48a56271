"""Plain PyTorch: the scripts of docs/own_loop.md as they stand, and what they stand on."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from poyo_ssl_plugin import CalciumPOYO, MaskedLatentReconstruction, Recordings
from poyo_ssl_plugin.compat import GENERATION, POYO, DatasetIndex, collate
from poyo_ssl_plugin.data import simulate
from poyo_ssl_plugin.objectives import Decorrelation, EMATeacher, MaskedActivity, NoReconstruction, identify_units

PAGE = (Path(__file__).parents[1] / "docs" / "own_loop.md").read_text(encoding="utf-8")
LOOPS = [script for script in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "sklearn" not in script]
SMALL = {"sequence_length": 2.0, "latent_step": 0.5, "dim": 16, "depth": 1, "dim_head": 8, "patch_size": 15}


@pytest.fixture
def model(dataset):
    torch.manual_seed(0)
    made = CalciumPOYO(dim_out={"direction": 8}, **SMALL)
    made.init_vocabs(dataset)
    return made


def tokens(model, folder, n=6, recording="sim_000"):
    windows = Recordings(folder)
    return collate([model.tokenize(windows[DatasetIndex(recording, 10.0 * i, 10.0 * i + 2.0)]) for i in range(n)])


class TestScripts:
    def test_each_is_short(self):
        assert len(LOOPS) == 3
        for script in LOOPS:
            assert len([line for line in script.splitlines() if line.strip()]) <= 30

    @pytest.mark.skipif(GENERATION != "0.2", reason="the page imports collate as torch_brain 0.2 has it")
    def test_they_run_as_they_stand(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        simulate("recordings", n_recordings=1, n_units=60, minutes=10, cre_lines=["Cux2_CreERT2"], seed=1)
        torch.manual_seed(0)
        for script in LOOPS:
            exec(compile(script, "docs/own_loop.md", "exec"), {"__name__": "__main__"})
        said = capsys.readouterr().out
        known, in_all = map(int, re.search(r"(\d+) of (\d+) neurons were known", said).groups())
        assert known == in_all == 60
        assert float(re.search(r"accuracy (\d\.\d+)", said).group(1)) > 2 / 8


class TestPlainBatches:
    @pytest.mark.parametrize(
        "objective",
        [
            MaskedLatentReconstruction(16),
            MaskedLatentReconstruction.paper(16),
            EMATeacher(16),
            Decorrelation(),
            MaskedActivity(16, patch_size=15, dim_head=8),
            NoReconstruction(),
        ],
        ids=lambda objective: type(objective).__name__,
    )
    def test_every_objective_takes_what_collate_gives(self, model, sim_dir, objective):
        batch = tokens(model, sim_dir)
        bare, wrapped = (
            objective(model.eval(), given, generator=torch.Generator().manual_seed(0)).loss
            for given in (batch, {"inputs": batch, "recording_id": ["sim_000"]})
        )
        assert bare.isfinite() and bare == wrapped

    def test_a_poyo_of_spikes_needs_no_queries(self, spike_dir):
        readout = {"dim_out": 1} if GENERATION == "0.2" else None
        if readout is None:
            pytest.skip("torch_brain 0.1 takes queries from the data")
        poyo = POYO(
            sequence_length=2.0, latent_step=0.5, num_latents_per_step=4, dim=16, depth=1, dim_head=8, **readout
        )
        poyo.init_vocabs(Recordings(spike_dir))
        loss = MaskedLatentReconstruction(16)(poyo, tokens(poyo, spike_dir)).loss
        loss.backward()
        assert loss.isfinite() and poyo.enc_atn.to_q.weight.grad.abs().sum() > 0


class TestAdaptTo:
    def test_known_neurons_keep_their_vectors_and_new_ones_are_drawn(self, model, sim_dir):
        old = {word: model.unit_emb.weight[row].clone() for word, row in model.unit_emb.vocab.items()}
        part = Recordings(sim_dir, ["sim_001"])
        assert model.adapt_to(part) == 20
        assert list(model.session_emb.vocab) == ["NA", "sim_001"]
        assert list(model.readout.prototypes["direction"].vocab) == ["NA", "sim_001"]
        for word in part.get_unit_ids():
            torch.testing.assert_close(model.unit_emb.weight[model.unit_emb.vocab[word]], old[word])
        assert model.adapt_to(part, vocabulary="normal") == 0

    def test_identification_changes_the_neurons_alone(self, model, dataset, sim_dir):
        before = {name: value.clone() for name, value in model.named_parameters()}
        batch = tokens(model, sim_dir, n=20)
        first = Decorrelation()(model.eval(), batch).loss.item()
        model.adapt_to(dataset, [batch], steps=20)
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        assert changed == {"unit_emb.weight"} and Decorrelation()(model, batch).loss.item() < first
        assert all(value.requires_grad for value in model.parameters())

    def test_without_windows_it_says_so(self, model):
        with pytest.raises(ValueError, match="no batch of windows"):
            identify_units(model, [], steps=1)
        assert np.isnan(identify_units(model, [], steps=0))
