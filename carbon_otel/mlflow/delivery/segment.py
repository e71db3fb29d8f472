"""One stretch of energy in MLflow, state after state: a process's part of a run, or a window on the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from carbon_otel.footprint import Footprint
from carbon_otel.mlflow.delivery.batch import Batch, LedgerRun
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.hourly import Hours
from carbon_otel.units import MS_PER_S

_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})


class Segment:
    """Makes the batches of one run or window in this process; `wall_s` is its start, seconds since the epoch.

    Not thread-safe: one thread makes all batches of a segment.
    """

    def __init__(
        self,
        number: int,
        wall_s: float,
        *,
        run_id: str = "",
        contribution_id: str = "",
        resumed: bool = False,
        efficiency_metric: str | None = None,
        ledger_run: LedgerRun | None = None,
    ) -> None:
        """`number` is unique in this process. A segment is of a run of the user's, or of a `ledger_run`."""
        self.number = number
        self.ended = False
        self._run_id = run_id
        self._contribution_id = contribution_id
        self._resumed = resumed
        self._efficiency_metric = efficiency_metric
        self._ledger_run = ledger_run
        self._hours = Hours()
        self._step = 0
        self._at_s = wall_s
        self._stamp_ms = int(wall_s * MS_PER_S)
        self._own_wh = 0.0
        self._duration_s = 0.0
        self._devices_j: Mapping[str, float] = {}

    def opening(self, tags: Mapping[str, str]) -> Batch:
        """The state that says that the run is measured. It has no metrics: one of nothing yet would be a zero."""
        return self._batch({}, tags)

    def state(
        self,
        footprint: Footprint,
        tags: Mapping[str, str],
        wall_s: float,
        *,
        nested: Mapping[str, float] = _NOTHING,
        units: Mapping[str, float] = _NOTHING,
        final: bool = False,
    ) -> Batch:
        """The state now.

        `nested` is `names.parts()` of the runs nested in this one, added up; `units` the functional units done, by
        `<kind>/<unit>`.
        """
        self.ended = final
        # A clock that is set back must not put this point before the last one.
        self._stamp_ms = max(int(wall_s * MS_PER_S), self._stamp_ms + 1)
        values = names.metrics(footprint, nested, units)
        nested_wh = sum(value for name, value in nested.items() if name.endswith("/energy_wh"))
        own_wh = footprint.energy_wh - nested_wh
        self._hours.spend(own_wh - self._own_wh, self._at_s, wall_s)
        gauges = self._power(footprint)
        self._at_s, self._own_wh = wall_s, own_wh
        self._duration_s, self._devices_j = footprint.duration_s, footprint.devices_inclusive
        if self._ledger_run is None:
            return self._batch(values, tags, gauges, self._hours.text())
        # A page of one window has few readers: its kWh and power are left out.
        values = {name: value for name, value in values.items() if not name.endswith(("_kwh", "_kg"))}
        about = {**tags, **self._ledger_run.model(), names.HOURLY: self._hours.text()}
        return self._batch(*names.packed(values, about))

    def _power(self, footprint: Footprint) -> dict[str, float]:
        """Mean watts of each device since the last state."""
        seconds = footprint.duration_s - self._duration_s
        if seconds <= 0:
            return {}
        return {
            f"carbon/power/{names.device(device)}_w": (joules - self._devices_j.get(device, 0.0)) / seconds
            for device, joules in footprint.devices_inclusive.items()
        }

    def _batch(
        self,
        values: Mapping[str, float],
        tags: Mapping[str, str],
        gauges: Mapping[str, float] = _NOTHING,
        hourly: str = "",
    ) -> Batch:
        step = self._step
        self._step += bool(values)
        return Batch(
            run_id=self._run_id,
            segment=self.number,
            values=values,
            tags=tags,
            step=step,
            timestamp_ms=self._stamp_ms,
            contribution_id=self._contribution_id,
            gauges=gauges,
            hourly=hourly,
            resumed=self._resumed,
            final=self.ended,
            entry=self._ledger_run,
            efficiency_metric=self._efficiency_metric,
        )
