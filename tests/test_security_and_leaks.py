"""What must not pass: the test seen before, paths out of the folder, code in files."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from quick import quick

import poyo_ssl_plugin
from poyo_ssl_plugin.configuration import compose_recipe
from poyo_ssl_plugin.data import Recordings
from poyo_ssl_plugin.errors import CheckpointError, RecipeError, RecordingError
from poyo_ssl_plugin.predictability import PredictabilityTable, score_dataset
from poyo_ssl_plugin.training import evaluate, finetune, pretrain, read_checkpoint

QUICK = quick(steps=1, batch_size=4)


class TestLeaks:
    @pytest.mark.parametrize(("command", "run"), [("pretrain", pretrain), ("finetune", finetune)])
    def test_scores_from_the_test_are_refused(self, command, run, recipe, dataset, tmp_path, caplog):
        path = tmp_path / "all.csv"
        score_dataset(dataset, split=None).to_csv(path)
        with pytest.raises(RecipeError, match=r"scored on \d+ s of the test time.*allow_leak=true"):
            run(recipe(command, f"diet.table={path}"))
        assert not (tmp_path / "run").exists()
        result = run(recipe(command, "allow_leak=true", f"diet.table={path}"))
        assert result.leaks["scoring"]["test_seconds"] > 1 and "allowed" in caplog.text
        assert read_checkpoint(result.checkpoint)["hyper_parameters"]["leaks"] == result.leaks

    def test_a_table_that_does_not_say_is_warned_about(self, recipe, table, tmp_path, caplog):
        path = tmp_path / "plain.csv"
        PredictabilityTable({name: table[name] for name in table.columns}).to_csv(path)
        assert pretrain(recipe("pretrain", f"diet.table={path}")).leaks["scoring"]["known"] is False
        assert "leaks cannot be excluded" in caplog.text

    def test_every_stage_records_what_it_used(self, recipe, table, dataset):
        first = pretrain(recipe("pretrain"))
        config = compose_recipe("finetune", overrides=[*QUICK, f"data.root={dataset.dataset_dir}"])
        config.diet.table, config.init_from = recipe("pretrain").diet.table, str(first.checkpoint)
        config.out_dir = str(first.out_dir.parent / "tuned")
        record = read_checkpoint(finetune(config).checkpoint)["hyper_parameters"]
        assert set(table.provenance["intervals"]) == set(dataset.recording_ids)
        assert record["pretrained_on"]["intervals"] and record["trained_on"]["units"]
        assert record["leaks"]["scoring"] == {"known": True, "split": "train", "test_seconds": 0.0}

    def test_evaluating_on_times_of_training_is_refused(self, recipe):
        result = finetune(recipe("finetune"))
        content = read_checkpoint(result.checkpoint)
        assert evaluate(result.checkpoint).leaks == {"trained_on": 0.0, "pretrained_on": 0.0}
        seen = content["hyper_parameters"]["trained_on"]
        seen["intervals"] = {name: [[0.0, 1e6]] for name in seen["intervals"]}
        torch.save(content, result.out_dir / "seen.ckpt")
        with pytest.raises(RecipeError, match="trained on .* s of the test time"):
            evaluate(result.out_dir / "seen.ckpt")
        assert evaluate(result.out_dir / "seen.ckpt", {"allow_leak": True}).leaks["trained_on"] > 1


class TestFiles:
    @pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a/../../b", "sim_000.h5"])
    def test_a_recording_id_is_never_a_path(self, sim_dir, name):
        with pytest.raises(RecordingError, match="has no recording"):
            Recordings(sim_dir, [name])
        with pytest.raises(RecordingError, match="no recording"):
            Recordings(sim_dir).get_recording(name)

    def test_a_checkpoint_to_resume_from_is_not_unpickled(self, recipe, tmp_path):
        class Bomb:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "exploded",))

        result = pretrain(recipe("pretrain"))
        content = torch.load(result.checkpoint, weights_only=True)
        torch.save({**content, "bomb": Bomb()}, result.checkpoint)
        with pytest.raises(CheckpointError, match="refused"):
            pretrain(recipe("pretrain", "resume=true", "trainer.max_steps=2"))
        assert not (tmp_path / "exploded").exists()


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", sorted(Path(poyo_ssl_plugin.__file__).parent.rglob("*.py")), ids=lambda p: p.name)
def test_nothing_unpickles_evaluates_or_starts_a_shell(path):
    """What bandit would look for, without bandit: no pickle, no eval, no shell, no unsafe YAML."""
    for node, name in calls(ast.parse(path.read_text(encoding="utf-8"))):
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert name not in {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load"}, name
        assert not name.startswith(("pickle.load", "dill.", "joblib.load", "marshal."))
        assert keywords.get("shell", "False") == "False"
        assert keywords.get("allow_pickle", "False") == "False"
        if name == "torch.load":
            assert keywords.get("weights_only") == "True"


def test_arrays_in_recordings_are_not_objects(sim_dir):
    assert np.asarray(Recordings(sim_dir).get_recording("sim_000").units.id).dtype.kind in "US"
