"""A run that is stopped anywhere and started again ends as if nothing had happened."""

from __future__ import annotations

import signal

import pytest
from left_behind import assert_equal, log, state
from quick import quick

from poyo_ssl_plugin.errors import RecipeError, Terminated
from poyo_ssl_plugin.training import RunResult, finetune, pretrain
from poyo_ssl_plugin.training.resume import ResumePoint

QUICK = quick("trainer.threads=1", steps=7, val_every=3, batch_size=4)


class StopError(Exception):
    """Stands for the end of a process: nothing of it is left but its files."""


@pytest.fixture
def stop_after(monkeypatch):
    """Stop a run right after it saved its state at a step."""

    def arm(step: int | None) -> None:
        save = ResumePoint._save_if_due

        def saving(point, trainer):
            save(point, trainer)
            if step is not None and trainer.global_step >= step:
                raise StopError

        monkeypatch.setattr(ResumePoint, "_save_if_due", saving)

    yield arm


def assert_same_run(a: RunResult, b: RunResult) -> None:
    assert a.metrics == pytest.approx(b.metrics, rel=0, abs=0, nan_ok=True)
    assert a.initial == b.initial and a.predictions == b.predictions
    for name in ("last", "best"):
        paths = [run.out_dir / "checkpoints" / f"{name}.ckpt" for run in (a, b)]
        assert paths[0].exists() == paths[1].exists()
        if paths[0].exists():
            assert_equal(*map(state, paths))
    assert log(a.out_dir) == log(b.out_dir)


CASES = {
    "pretrain": ("pretrain", [], 4),
    "pretrain in epochs": (
        "pretrain",
        ["trainer.max_steps=-1", "trainer.max_epochs=2", "data.batch_size=40", "trainer.val_every_n_steps=4"],
        9,
    ),
    "finetune": ("finetune", ["trainer.max_steps=9", "trainer.val_every_n_steps=4", "transfer=lp_ft"], 4),
}
RUN = {"pretrain": pretrain, "finetune": finetune}


def stop_and_resume(command, config, step, stop_after, monkeypatch) -> RunResult | None:
    """Stop a run at a step and resume it; ``None`` if it was over before."""
    stop_after(step)
    try:
        RUN[command](config)
        return None
    except StopError:
        monkeypatch.undo()
        return RUN[command](config)


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_bit_for_bit(case, recipe, stop_after, monkeypatch):
    command, overrides, step = CASES[case]
    whole = RUN[command](recipe(command, *overrides, name="whole"))
    config = recipe(command, *overrides, "trainer.save_every_n_steps=1", "resume=true")
    resumed = stop_and_resume(command, config, step, stop_after, monkeypatch)
    assert resumed is not None
    assert_same_run(resumed, whole)


@pytest.fixture
def heeds_ctrl_c():
    """As on a terminal: where tests run in the background, their shell has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_saves_and_says_so(recipe, monkeypatch, heeds_ctrl_c):
    """After the step in progress; a second one does not wait for it."""
    options = ["resume=true", "trainer.val_every_n_steps=100"]
    whole = pretrain(recipe("pretrain", *options, name="whole"))
    config, end = recipe("pretrain", *options), ResumePoint.on_train_batch_end

    def pressed(point, trainer, *arguments):
        if trainer.global_step == 3:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        end(point, trainer, *arguments)

    monkeypatch.setattr(ResumePoint, "on_train_batch_end", pressed)
    with pytest.raises(Terminated) as stopped:
        pretrain(config)
    assert stopped.value.message == "stopped on Ctrl-C after step 3; start again with resume=true to go on"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()
    assert_same_run(pretrain(config), whole)


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_whichever_step_it_stopped_at(case, every, recipe, stop_after, monkeypatch):
    command, overrides, _ = CASES[case]
    whole = RUN[command](recipe(command, *overrides, name="whole"))
    overrides = [*overrides, f"trainer.save_every_n_steps={every}", "resume=true"]
    for step in range(1, 100):
        config = recipe(command, *overrides, name=str(step))
        resumed = stop_and_resume(command, config, step, stop_after, monkeypatch)
        if resumed is None:
            break
        assert_same_run(resumed, whole)
    assert step > 3


def test_a_finished_run_is_not_repeated(recipe):
    config = recipe("finetune", "trainer.max_steps=2", "resume=true", name="a")
    first = finetune(config, seed=1)
    written = first.checkpoint.stat().st_mtime_ns
    again = finetune(config, seed=1)
    assert_same_run(first, again)
    assert first.checkpoint.stat().st_mtime_ns == written


def test_a_resumed_run_cannot_change_its_model_or_data(recipe):
    pretrain(recipe("pretrain", "trainer.max_steps=2", name="a"))
    with pytest.raises(RecipeError, match=r"data\.batch_size=4, not 8"):
        pretrain(recipe("pretrain", "resume=true", "data.batch_size=8", name="a"))


def test_worker_processes_change_nothing(recipe):
    steps = ["trainer.max_steps=4", "trainer.val_every_n_steps=2"]
    one = pretrain(recipe("pretrain", *steps, name="a"))
    two = pretrain(recipe("pretrain", *steps, "data.num_workers=1", name="b"))
    assert_same_run(one, two)
