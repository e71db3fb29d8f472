"""A segment: the energy of one run, or of one window on the ledger, in one process."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from carbon_otel.footprint import Footprint
from carbon_otel.mlflow.delivery.batch import Batch, LedgerRun
from carbon_otel.mlflow.delivery.sampling import Sampling
from carbon_otel.mlflow.delivery.stay import Stays
from carbon_otel.mlflow.schema import names
from carbon_otel.units import MS_PER_S

_NOTHING: Final[Mapping[str, float]] = MappingProxyType({})
_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})


class Segment:
    """Makes the batches of one run or window in this process.

    `wall_s` is its start in seconds since the epoch, and `clock_s` the same moment on a monotonic clock. All later
    times are this one label plus the time that the monotonic clock has counted, because the wall clock may jump.

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
        joined: bool = False,
        clock_s: float = 0.0,
        age_s: float = 0.0,
    ) -> None:
        """`number` is unique in this process. The segment belongs to a run of the user, or to a `ledger_run`.

        The run is `joined` if another process has opened it. `age_s` is the age of a resumed run: its curves
        continue as coarse as they were.
        """
        self.number = number
        self.ended = False
        self.run_id = run_id
        self._contribution_id = contribution_id
        self._resumed = resumed
        self._efficiency_metric = efficiency_metric
        self._ledger_run = ledger_run
        self._joined = joined
        # The sums of the times before the last `reopen`, and those so far.
        self._before: Mapping[str, float] = {}
        self._values: Mapping[str, float] = {}
        self._rank: Mapping[str, float] = {}
        self._stays = Stays(wall_s)
        self._sampling = Sampling(age_s)
        self._step = 0
        self._wall_s = wall_s
        self._clock_s = clock_s
        self._stamp_ms = int(wall_s * MS_PER_S)
        self._begin_ms = self._stamp_ms
        self._own_wh = self._own_g = 0.0
        self._duration_s = 0.0
        self._devices_j: Mapping[str, float] = {}
        # Forecasts, which every state has beside its sums, and whether the next one shows them for the first time.
        self._foreseen: dict[str, float] = {}
        self._newly_foreseen = False

    def opening(self, tags: Mapping[str, str]) -> Batch:
        """The first state: it marks the run as measured, without metrics, because zeros would be wrong figures."""
        return self._batch({}, tags)

    def reopen(self, elapsed_s: float) -> None:
        """The run has a further stage, whose footprints and clock begin at zero, and add to the sums so far.

        It begins `elapsed_s` seconds after the segment, on a monotonic clock. Other processes may have written to
        the run in the meantime.
        """
        self.ended, self._resumed = False, True
        self._before, self._clock_s = self._values, -elapsed_s
        self._stays.spend(0.0, 0.0, elapsed_s)
        self._own_wh = self._own_g = self._duration_s = 0.0
        self._devices_j = {}

    def foresee(self, figures: Mapping[str, float]) -> None:
        """The run has a forecast, or a newer one."""
        self._foreseen.update(figures)
        self._newly_foreseen = True

    def unchanged(self, tags: Mapping[str, str] = _NO_TAGS, rank: Mapping[str, float] = _NOTHING) -> Batch:
        """The last state, which is no longer final; `rank` as in `state`."""
        self._rank = rank
        return self._batch(self._values, tags, self._foreseen, self._stays.text())

    def state(
        self,
        footprint: Footprint,
        tags: Mapping[str, str],
        clock_s: float,
        *,
        of_nested: Mapping[str, float] = _NOTHING,
        units: Mapping[str, float] = _NOTHING,
        rank: Mapping[str, float] = _NOTHING,
        remote: Mapping[str, float] = _NOTHING,
        final: bool = False,
    ) -> Batch:
        """The state at `clock_s`, on the monotonic clock of the segment.

        `of_nested` is the sum of `names.subtotals()` over the nested runs; `units` are the functional units
        of the stages, by `<kind>/<unit>`; `rank` is what `rank_figures.written` says; `remote` is the sum of
        `names.remote_metrics()` over the run's calls.
        """
        self.ended, self._rank = final, rank
        elapsed_s = clock_s - self._clock_s
        self._stamp_ms = max(int((self._wall_s + elapsed_s) * MS_PER_S), self._stamp_ms + 1)
        values = {**names.footprint_metrics(footprint, of_nested, units), **remote}
        for name, amount in self._before.items():
            values[name] = values.get(name, 0.0) + amount
        self._values = values
        nested_wh, nested_g = (
            sum(value for name, value in of_nested.items() if name.endswith(figure))
            for figure in ("/energy_wh", "/emissions_g")
        )
        own_wh, own_g = footprint.energy_wh - nested_wh, footprint.emissions_g - nested_g
        self._stays.at(tags)
        self._stays.spend(own_wh - self._own_wh, own_g - self._own_g, elapsed_s)
        self._own_wh, self._own_g = own_wh, own_g
        bars = self._sampling.bars_due(elapsed_s, len(values)) or final or self._newly_foreseen
        self._newly_foreseen = False
        if self._ledger_run is None:
            curves = self._sampling.curves_due(elapsed_s, 2 + len(footprint.devices_inclusive)) or final
            gauges = {**self._foreseen, **(self._power(footprint) if curves else _NOTHING)}
            return self._batch(values, tags, gauges, self._stays.text(), curves=curves, bars=bars)
        # Windows get no kWh and no power: their pages have few readers.
        values = {name: value for name, value in values.items() if not name.endswith(("_kwh", "_kg"))}
        window_tags = {**tags, **self._ledger_run.model(), names.HOURLY: self._stays.text()}
        return self._batch(*names.pack(values, window_tags), curves=bars, bars=bars)

    def _power(self, footprint: Footprint) -> dict[str, float]:
        """Mean watts of each device since the last point."""
        seconds, devices_j = footprint.duration_s - self._duration_s, self._devices_j
        if seconds <= 0:
            return {}
        self._duration_s, self._devices_j = footprint.duration_s, footprint.devices_inclusive
        return {
            f"carbon/power/{names.device(device)}_w": (joules - devices_j.get(device, 0.0)) / seconds
            for device, joules in footprint.devices_inclusive.items()
        }

    def _batch(
        self,
        values: Mapping[str, float],
        tags: Mapping[str, str],
        gauges: Mapping[str, float] = _NOTHING,
        hourly: str = "",
        *,
        curves: bool = True,
        bars: bool = True,
    ) -> Batch:
        step = self._step
        self._step += bool(values)
        return Batch(
            run_id=self.run_id,
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
            joined=self._joined,
            rank=dict(self._rank),
            begin_ms=self._begin_ms,
            places=self._stays.several(),
            curves=curves,
            bars=bars,
        )
