"""What a sink is: a view of the records that the core produces. A new backend is one new sink."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from carbon_otel.meter.meter import Snapshot

if TYPE_CHECKING:
    from carbon_otel.stages.engine import OpenStage


class Sink:
    """Every method does nothing by default. None may block; what needs the network goes to a thread.

    `opened` and `closed` frame a stage; `entered` and `left` frame the times when it is the current one of
    its line of execution (a suspended generator is open, but not entered; an MLflow run is never entered).
    """

    def opened(self, stage: OpenStage) -> None: ...

    def entered(self, stage: OpenStage) -> None: ...

    def left(self, stage: OpenStage) -> None: ...

    def paid(self, stage: OpenStage, joules: Sequence[float], grams: float) -> None:
        """Exclusive joules per device, and grams, since the last call for this stage: at ticks and its end."""

    def closed(self, stage: OpenStage, error: BaseException | None) -> None:
        """The stage has ended; `stage.record` is final. `error` is what its block raised."""

    def tick(self, snapshot: Snapshot) -> None: ...

    def flush(self, timeout_s: float) -> bool:
        """Send what is pending; False when that did not succeed in time."""
        return True

    def close(self, timeout_s: float) -> None: ...
