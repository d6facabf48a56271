"""What another distribution adds to poyo_ssl_plugin, by its entry points alone."""

import numpy as np

from poyo_ssl_plugin import Diet

LEVEL = 0.5


class ActiveFraction:
    """Share of samples above 0.5 dF/F."""

    def __init__(self, n_units):
        self.active, self.total = np.zeros(n_units), np.zeros(n_units)

    def update(self, rows):
        self.active += (rows > LEVEL).sum(axis=0)
        self.total += np.isfinite(rows).sum(axis=0)

    def result(self):
        return self.active / self.total


def active(table, minimum=0.01):
    """The neurons that are active at least so often."""
    members = table["active_fraction"] >= minimum
    rule = {"kind": "active", "minimum": minimum}
    return Diet(table, members, name="active", rule=rule)


def every_other_step(layout, ratio, generator):
    """Hide every other time step of every window."""
    import torch

    hidden = torch.arange(layout.n_steps, device=layout.device) % 2 == 1
    hidden = hidden.repeat_interleave(layout.per_step)
    return hidden.expand(layout.n_windows, -1)[..., None]


def contrast():
    """How strong was the grating?"""
    return {"name": "contrast", "source": "drifting_gratings", "label": "contrast"}
