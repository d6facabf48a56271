"""Options that make training faster change its numbers by rounding at most; how fast it was is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import tiny
import torch
from left_behind import assert_equal, weights
from quick import quick

from poyo_ssl_plugin.compare.figures import read_metric
from poyo_ssl_plugin.models.compiled import compile_layers
from poyo_ssl_plugin.training import finetune, pretrain, read_checkpoint
from poyo_ssl_plugin.training.resume import ResumePoint
from poyo_ssl_plugin.training.run_folder import RunRecord
from poyo_ssl_plugin.training.throughput import Throughput, peak_flops

QUICK = quick(steps=4, batch_size=4)
NO_DROPOUT = [f"model.{name}=0" for name in ("ffn_dropout", "lin_dropout", "latent_dropout")]


def assert_same_weights(one: Path, other: Path, **tolerance: float) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], **tolerance)


class TestCompile:
    @pytest.mark.parametrize("encoder", ["read_in", "attention"])
    def test_layers_give_the_same_step(self, encoder):
        inputs = tiny.inputs()
        steps = []
        for compiled in (False, True):
            model = tiny.model(**(tiny.PAPER if encoder == "attention" else {}), depth=1).train()
            if compiled:
                compile_layers(model, "eager")
            torch.manual_seed(0)
            output = model(**inputs)
            output.square().sum().backward()
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            steps.append({"output": output, **gradients})
        torch.testing.assert_close(*steps, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("backend", ["aot_eager", "true"])
    def test_a_compiled_model_trains_to_the_same_weights(self, recipe, backend):
        # Dropout that inductor compiles draws other random numbers.
        plain, compiled = (
            pretrain(
                recipe("pretrain", "model.depth=1", *NO_DROPOUT, f"trainer.compile={name}", name=name, steps=2)
            ).checkpoint
            for name in ("false", backend)
        )
        assert_same_weights(plain, compiled, rtol=1e-3, atol=1e-5)

    def test_layers_are_compiled(self, recipe, monkeypatch):
        compiled = []
        monkeypatch.setattr(torch.nn.Module, "compile", lambda self, backend: compiled.append((self, backend)))
        pretrain(recipe("pretrain", "trainer.compile=true", steps=1))
        assert len(compiled) >= 4 and {backend for _, backend in compiled} == {"inductor"}


class TestAccumulation:
    def test_two_half_batches_make_the_step_of_a_whole_one(self, recipe):
        """The loss is a mean over windows; epochs of both are one pass over all trials."""
        options = [*NO_DROPOUT, "data.unit_dropout=null"]
        whole = finetune(recipe("finetune", *options, name="whole")).checkpoint
        options += ["trainer.accumulate_grad_batches=2", "data.batch_size=2"]
        parts = finetune(recipe("finetune", *options, name="parts")).checkpoint
        assert_same_weights(whole, parts, rtol=1e-3, atol=2e-5)

    def test_steps_validations_and_checkpoints_count_steps(self, recipe):
        options = ["trainer.accumulate_grad_batches=2", "trainer.val_every_n_steps=2"]
        result = pretrain(recipe("pretrain", *options))
        content = read_checkpoint(result.checkpoint)
        batches = content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["completed"]
        assert (content["global_step"], batches) == (4, 8)
        steps, _ = read_metric(result.out_dir, "valid/loss")
        # Before, after two steps and after four; the numbers of those steps begin at 0.
        assert list(steps) == [0, 1, 3, 4]

    def test_a_stopped_run_goes_on_bit_for_bit(self, recipe):
        options = ["trainer.accumulate_grad_batches=2", "trainer.save_every_n_steps=1"]
        whole = pretrain(recipe("pretrain", *options, name="whole")).checkpoint
        saved = ResumePoint._save_if_due

        def stop(self, trainer) -> None:
            saved(self, trainer)
            if trainer.global_step == 2:
                raise KeyboardInterrupt

        with mock.patch.object(ResumePoint, "_save_if_due", stop), pytest.raises((KeyboardInterrupt, SystemExit)):
            pretrain(recipe("pretrain", *options, name="stopped"))
        resumed = pretrain(recipe("pretrain", *options, "resume=true", name="stopped")).checkpoint
        assert_equal(weights(whole), weights(resumed))


class TestThroughput:
    def test_it_is_in_the_record_of_a_run(self, recipe, tmp_path):
        pretrain(recipe("pretrain"))
        speed = json.loads((tmp_path / "run/run.json").read_text())["speed"]
        assert speed.keys() == {"training_seconds", "windows_per_second", "gflop_per_window"}
        assert min(speed.values()) > 0
        record = RunRecord.read(tmp_path / "run")
        assert record is not None and record.speed == speed

    def test_the_share_of_the_peak(self, monkeypatch, tmp_path):
        now = iter([0.0, 10.0, 12.0, 20.0, 24.0])
        monkeypatch.setattr("poyo_ssl_plugin.training.throughput.time.monotonic", lambda: next(now))
        speed = Throughput(RunRecord(tmp_path, {}))
        speed._flops, speed._peak = 2_000_000_000, 1e11
        trainer, batch = SimpleNamespace(world_size=2), {"target": torch.zeros(8)}
        assert str(speed) == ""
        speed.on_train_batch_start(trainer, None, batch, 0)
        for i in range(2):
            speed.on_train_batch_end(trainer, None, None, batch, i)
        speed.on_validation_end(trainer, None)
        speed.on_train_batch_end(trainer, None, None, batch, 2)
        # Two steps of 16 windows in 2 and 4 s; the first step and the validation are not counted.
        expected = {"windows_per_second": 32 / 6, "flop_utilisation": 32 / 6 * 2e9 / 1e11}
        measured = speed.measured()
        assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-3)
        assert measured["training_seconds"] == 16
        assert str(speed) == "5.33 windows/s, 11% of peak"

    def test_peaks_of_known_devices(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
        assert 9e14 < peak_flops(torch.device("cuda"), "bf16-mixed") < 1e15
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card of next year")
        assert peak_flops(torch.device("cuda"), "bf16-mixed") == 0
