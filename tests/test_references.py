"""Simple decoders, and files that are whole or not there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from quick import quick

from poyo_ssl_plugin.compare import references
from poyo_ssl_plugin.compare.comparison import run_comparison
from poyo_ssl_plugin.compare.protocol import Comparison
from poyo_ssl_plugin.compare.references import _windows, run_references, template, whitening
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings, find_trials, get_task, simulate
from poyo_ssl_plugin.data.splits import repeat_fold
from poyo_ssl_plugin.files import atomic_path, write_json
from poyo_ssl_plugin.predictability import score_dataset
from poyo_ssl_plugin.training import FinetuneRecipe, Inputs, parse_recipe, prepare_finetuning

QUICK = quick(steps=3)


class TestRules:
    def test_a_template_is_the_class_of_greatest_correlation(self):
        rng = np.random.default_rng(0)
        train, label, test = rng.normal(size=(12, 30)), np.repeat([4, 7, 9], 4), rng.normal(size=(20, 30))
        found = template(train, label, test)
        for row, guess in zip(test, found, strict=True):
            r = {k: np.corrcoef(row, train[label == k].mean(axis=0))[0, 1] for k in (4, 7, 9)}
            assert guess == max(r, key=r.get)

    def test_whitening_whitens(self):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(4000, 3)) @ rng.normal(size=(3, 3)) + 5
        white = whitening(rows)(rows)
        np.testing.assert_allclose(np.cov(white.T), np.eye(3), atol=0.05)
        np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)

    @pytest.mark.parametrize("n", [30, 200])
    def test_whitening_of_many_features_is_the_same(self, monkeypatch, n):
        rng = np.random.default_rng(0)
        rows = rng.normal(size=(n, 80)) @ rng.normal(size=(80, 80)) + 5
        expected = whitening(rows)(rows[:9])
        monkeypatch.setattr(references, "MOST_FEATURES", 79)
        np.testing.assert_allclose(whitening(rows)(rows[:9]), expected, rtol=1e-4, atol=1e-4)


class TestReferences:
    @pytest.fixture
    def recipe(self, sim_dir, table_path, tmp_path):
        def make(*overrides: str, root: Path = sim_dir, table: Path = table_path):
            paths = [f"data.root={root}", f"diet.table={table}", f"out_dir={tmp_path / 'run'}"]
            return compose_recipe("finetune", "scratch", [*QUICK, *paths, *overrides])

        return make

    def test_they_decode_exactly_the_model_s_windows(self, recipe):
        """The same trials of the test, on the means of the model's own patches of the neurons that it is fed."""
        config = recipe("diet=unpredictable")
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        run = prepare_finetuning(config, inputs)
        found = _windows(run.data.test_dataloader(), run.module.model)
        n_trials = {name: len(trials) for name, trials in run.data.trials("test").items()}
        batch = next(iter(run.data.test_dataloader()))
        real = batch["inputs"]["input_mask"][0].any(dim=1)
        means = batch["inputs"]["input_values"][0][real].mean(dim=-1).flatten()
        np.testing.assert_allclose(np.sort(found.features[0]), np.sort(means.numpy()), rtol=1e-6)
        assert {name: int((found.recording == name).sum()) for name in n_trials} == n_trials
        scores = run_references(parse_recipe(FinetuneRecipe, config), inputs)
        assert set(scores) == {"template", "whitened template", "softmax regression"}
        assert {len(told.right) for told in scores.values()} == {sum(n_trials.values())}

    def test_on_many_neurons_they_are_well_above_chance_and_shuffled_labels_at_it(self, recipe, tmp_path):
        lines = ["Cux2_CreERT2"]
        folder = simulate(tmp_path / "sim", n_recordings=1, n_units=150, minutes=14, cre_lines=lines, seed=0)
        score_dataset(Recordings(folder)).to_csv(tmp_path / "table.csv")
        config = recipe("diet=all", root=folder, table=tmp_path / "table.csv")
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        for decoded in run_references(parse_recipe(FinetuneRecipe, config), inputs).values():
            assert decoded.right.mean() > 3 / 8
        config.shuffle_labels = True
        for decoded in run_references(parse_recipe(FinetuneRecipe, config), inputs).values():
            assert decoded.right.mean() < 3 / 8

    def test_recordings_of_one_class_or_without_a_labelled_trial(self, recipe):
        """A decoder of one class names that class; what has no labels to learn from is told wrong."""
        config = recipe("diet=all")
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        names = inputs.dataset.recording_ids
        gratings = [inputs.dataset.get_recording(name).drifting_gratings for name in names[:2]]
        first = find_trials(inputs.dataset.get_recording(names[0]), get_task("drifting_gratings"), "train")
        one = first[first.label == first.label[0]]
        inputs.split["train"][names[0]] = np.stack([one.start, one.end], axis=1)
        before = float(min(gratings[1].start))
        inputs.split["train"][names[1]] = np.array([[0.0, before]])
        scores = run_references(parse_recipe(FinetuneRecipe, config), inputs)
        trials = prepare_finetuning(config, inputs).data.trials("test")
        n, m = len(trials[names[0]]), len(trials[names[1]])
        for told in scores.values():
            assert told.right[:n].tolist() == (trials[names[0]].label == first.label[0]).tolist()
            assert not told.right[n : n + m].any()
        # It is sure of its one class, and knows nothing of the recording without labels.
        loss = scores["softmax regression"].log_loss
        assert (loss[:n][trials[names[0]].label == first.label[0]] == 0).all() and loss[:n].max() > 30
        np.testing.assert_allclose(loss[n : n + m], np.log(8))

    def test_counts_of_spikes(self, spike_dir, spike_table_path, recipe):
        config = recipe("model=poyo", root=spike_dir, table=spike_table_path)
        run = prepare_finetuning(config, Inputs.from_recipe(parse_recipe(FinetuneRecipe, config)))
        found = _windows(run.data.test_dataloader(), run.module.model)
        window, *_ = run.data.test_dataloader().sampler
        data = Recordings(spike_dir).get_recording(window.recording_id)
        times, units = np.asarray(data.spikes.timestamps), np.asarray(data.spikes.unit_index)
        of_diet = {unit.rpartition("/")[2] for unit in run.data.diet.units(window.recording_id)}
        fed = np.array([unit.rpartition("/")[2] in of_diet for unit in np.asarray(data.units.id).astype(str)])
        inside = (times >= window.start) & (times < window.end) & fed[units]
        assert found.features[0].sum() == inside.sum() > 0
        n_bins = round(run.module.model.sequence_length / run.module.model.latent_step)
        by_unit = np.sort(found.features[0].reshape(-1, n_bins).sum(axis=1))
        assert np.array_equal(by_unit, np.sort(np.bincount(units[inside], minlength=len(fed))[fed]))

    def test_spikes_alone_are_compared_from_scores_to_references(self, spike_dir, tmp_path):
        sizes = ["model=poyo", *(text for text in QUICK if not text.startswith("model="))]
        sizes += [
            f"model.{key}={value}" for key, value in {"dim": 16, "dim_head": 8, "depth": 1, "self_heads": 2}.items()
        ]
        result = run_comparison(
            Comparison(
                str(spike_dir), str(tmp_path), held_out=("sim_002",), field="spikes", seeds=(0,), processes=1,
                pretrain=sizes, finetune=sizes,
            )
        )  # fmt: skip
        assert result.table.provenance["field"] == "spikes"
        assert set(result.summary.baselines) == {"template", "whitened template", "softmax regression"}
        assert set(result.summary.arms) == {"pretrained", "scratch"}

    def test_of_the_real_session(self, real_dir, tmp_path, recipe):
        """What was measured with numpy alone: .85 for a template on two seconds of movie, .90 after whitening."""
        table = score_dataset(Recordings(real_dir, ["501574836"]))
        table.to_csv(tmp_path / "table.csv")
        config = recipe(
            "task=natural_movie", "diet=unpredictable", "data.recordings=['501574836']", "model=small",
            root=real_dir, table=tmp_path / "table.csv",
        )  # fmt: skip
        inputs = Inputs.from_recipe(parse_recipe(FinetuneRecipe, config))
        inputs.split = repeat_fold(inputs.dataset, "natural_movie_one", 0, 5)
        found = run_references(parse_recipe(FinetuneRecipe, config), inputs)
        # All trials of two repeats but those too near to what is trained on.
        assert 50 < len(found["template"].right) <= 60
        assert found["template"].right.mean() > 0.75 and found["whitened template"].right.mean() > 0.82


class TestFiles:
    def test_all_or_nothing(self, tmp_path):
        write_json(tmp_path / "a.json", {"a": 1})
        with pytest.raises(ValueError), atomic_path(tmp_path / "a.json") as temporary:
            temporary.write_text("half")
            raise ValueError
        assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["a.json"]

    def test_json_has_no_nan(self, tmp_path):
        with pytest.raises(ValueError):
            write_json(tmp_path / "a.json", {"a": float("nan")})
        assert list(tmp_path.iterdir()) == []
