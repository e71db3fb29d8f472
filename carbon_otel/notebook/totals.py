"""What `%carbon` shows: the sums of a session by kind of stage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carbon_otel.footprint import Footprint
from carbon_otel.footprint.shown import html_of, text_of

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a session so far. `footprint.stages` has the kind `between_cells` for the time between cells."""

    footprint: Footprint

    def __repr__(self) -> str:
        if math.isnan(self.footprint.energy_j):
            return "Nothing is measured yet: begin a cell with %%carbon training, or call carbon_otel.instrument()"
        return text_of(self.footprint)

    def _repr_html_(self) -> str | None:
        return None if math.isnan(self.footprint.energy_j) else html_of(self.footprint, "This session so far")

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each kind of stage."""
        return self.footprint.rows()

    def to_frame(self) -> pandas.DataFrame:
        """`rows()` as a pandas frame. Raises ImportError without pandas."""
        return self.footprint.to_frame()
