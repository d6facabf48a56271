"""Settings of runs of a few steps, for tests of what runs do and not of what they learn."""

from __future__ import annotations


def quick(*overrides: str, steps: int, val_every: int | None = None, batch_size: int = 16) -> list[str]:
    """Overrides of a recipe for a tiny model on the CPU that logs every step.

    Args:
        *overrides: Further ones.
        steps: How many steps to train.
        val_every: Steps between validations, ``steps`` by default.
        batch_size: Windows per batch.
    """
    return [
        "model=tiny",
        f"data.batch_size={batch_size}",
        f"trainer.max_steps={steps}",
        f"trainer.val_every_n_steps={val_every or steps}",
        "trainer.limit_val_batches=4",
        "trainer.log_every_n_steps=1",
        "trainer.progress=false",
        "trainer.tensorboard=false",
        "trainer.accelerator=cpu",
        *overrides,
    ]
