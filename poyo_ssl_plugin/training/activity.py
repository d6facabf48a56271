"""Which recorded activity a model is fed, and how it becomes what the model reads."""

from __future__ import annotations

from dataclasses import dataclass

from poyo_ssl_plugin.data import CountSpikes, StandardizeTraces
from poyo_ssl_plugin.data.dataset import Transform
from poyo_ssl_plugin.errors import RecipeError
from poyo_ssl_plugin.models import Adapter
from poyo_ssl_plugin.predictability import PredictabilityTable
from poyo_ssl_plugin.recordings import SPIKES, TRACES


@dataclass(frozen=True)
class Activity:
    """The recorded activity that windows are of. A model of traces takes spikes as counts in bins.

    Attributes:
        field: ``"calcium_traces.df_over_f"`` or ``"spikes"``; ``None`` for what the model reads.
        bin_width: Width of the bins in seconds.
    """

    field: str | None = None
    bin_width: float = 0.1

    def __post_init__(self) -> None:
        if self.field not in (None, SPIKES, TRACES):
            raise RecipeError(f"data.field must be {SPIKES}, {TRACES} or null, not {self.field!r}")
        if not self.bin_width > 0:
            raise RecipeError(f"data.bin_width must be a positive number of seconds, not {self.bin_width}")

    def of(self, adapter: Adapter) -> str:
        """The recorded activity that a model is fed.

        Raises:
            RecipeError: If the model reads spikes and this is traces.
        """
        field = self.field or adapter.field
        if adapter.field == SPIKES != field:
            raise RecipeError(f"data.field={field}: {type(adapter.model).__name__} reads spikes; use a CalciumPOYO")
        return field

    def transforms(self, adapter: Adapter, table: PredictabilityTable, *, standardize: bool) -> list[Transform]:
        """What turns a window of the selected neurons into what the model reads.

        Raises:
            RecipeError: If traces are to be standardized by the statistics of something else.
        """
        if adapter.field == SPIKES:
            return []
        counts = self.of(adapter) == SPIKES
        made: list[Transform] = [CountSpikes(self.bin_width)] if counts else []
        if standardize:
            if counts:
                self._check_scores(table)
            made.append(StandardizeTraces(table))
        return made

    def _check_scores(self, table: PredictabilityTable) -> None:
        scored, width = table.provenance.get("field"), table.provenance.get("bin_width")
        if scored not in (None, SPIKES) or width not in (None, self.bin_width):
            what = f"{width:g}-s bins of {scored}" if width else scored
            raise RecipeError(
                f"data.field=spikes with bins of {self.bin_width:g} s needs scores of the same counts, and the table's "
                f"are of {what}; score with --field spikes --bin-width {self.bin_width:g}, or give "
                "data.standardize=false"
            )
