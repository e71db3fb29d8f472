"""What a sink is, and the words that the core tells it. A new backend is one new sink.

Every word is immutable and complete: a sink never asks the core for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

from carbon_otel.footprint import Footprint
from carbon_otel.guard import log_fault
from carbon_otel.records import Snapshot, StageInfo, StageRecord

Price = Callable[[StageRecord], Footprint]


class Figures:
    """The figures of a stage at one moment. Computed when they are first looked at, once for all sinks."""

    __slots__ = ("_footprint", "_make", "_price", "_record")

    def __init__(self, make: Callable[[], StageRecord], price: Price) -> None:
        self._make = make
        self._price = price
        self._record: StageRecord | None = None
        self._footprint: Footprint | None = None

    @property
    def record(self) -> StageRecord:
        if self._record is None:
            self._record = self._make()
        return self._record

    @property
    def footprint(self) -> Footprint:
        if self._footprint is None:
            self._footprint = self._price(self.record)
        return self._footprint


class StageEnd(NamedTuple):
    """How a stage ended.

    Attributes:
        end_ns: monotonic nanoseconds.
        duration_s: seconds from its opening.
        units: functional units that the stage has done, such as samples.
        error: the exception that its block raised.
        below: for a run, the runs that are open below it, with their figures at its end.
    """

    figures: Figures
    end_ns: int
    duration_s: float
    units: Mapping[str, float]
    error: BaseException | None = None
    below: Mapping[StageInfo, Figures] = MappingProxyType({})

    @property
    def footprint(self) -> Footprint:
        return self.figures.footprint


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The figures at one tick of the process and of the stages that are recorded while they are open.

    `wall_ns` is wall-clock nanoseconds.
    """

    wall_ns: int
    process: Figures
    open: Mapping[StageInfo, Figures] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """One reading of all devices. `checkpoint` is there when it is time to write down what is still open."""

    now_ns: int
    devices: Snapshot
    checkpoint: Checkpoint | None = None


# Waits at most so many seconds for what was begun; whether it succeeded in that time.
Pending = Callable[[float], bool]


def nothing_pending(timeout_s: float) -> bool:
    """A `Pending` of a sink that has sent everything."""
    return True


class Sink:
    """Every method does nothing by default. None may block: disk and network belong to a worker thread.

    `stage_opened` and `stage_closed` frame a stage; `stage_entered` and `stage_left` frame the times when it is
    the current one of its line of execution: a suspended generator is open, but not entered, and an MLflow run
    is never entered. Stages call on the application's threads, ticks on the sampler's.
    """

    def stage_opened(self, stage: StageInfo) -> None: ...

    def stage_entered(self, stage: StageInfo) -> None: ...

    def stage_left(self, stage: StageInfo) -> None: ...

    def energy_attributed(self, stage: StageInfo, joules: Sequence[float], grams: float) -> None:
        """Exclusive joules per device, and grams, since the last call for this stage: at ticks and its end.

        A tick may report a stage that has just closed in another thread.
        """

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None: ...

    def tick(self, tick: Tick) -> None: ...

    def flush(self, timeout_s: float) -> Pending:
        """Begin to send what has not been sent, and return at once."""
        return nothing_pending

    def close(self, timeout_s: float) -> Pending:
        """Begin to send what has not been sent and to release what is held, and return at once."""
        return nothing_pending


class Fanout:
    """Tells every sink that listens to an event. A fault of a sink stays in it, and is logged once."""

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks: tuple[Sink, ...] = ()
        self._listen(tuple(sinks))

    def __iter__(self) -> Iterator[Sink]:
        return iter(self._sinks)

    def add(self, sink: Sink) -> None:
        self._listen((*self._sinks, sink))

    def _listen(self, sinks: tuple[Sink, ...]) -> None:
        self._sinks = sinks
        self._opened = [s.stage_opened for s in sinks if _overrides(s, "stage_opened")]
        self._entered = [s.stage_entered for s in sinks if _overrides(s, "stage_entered")]
        self._left = [s.stage_left for s in sinks if _overrides(s, "stage_left")]
        self._attributed = [s.energy_attributed for s in sinks if _overrides(s, "energy_attributed")]
        self._closed = [s.stage_closed for s in sinks if _overrides(s, "stage_closed")]

    def stage_opened(self, stage: StageInfo) -> None:
        for tell in self._opened:
            try:
                tell(stage)
            except Exception as fault:  # noqa: BLE001
                _report(tell, fault)

    def stage_entered(self, stage: StageInfo) -> None:
        for tell in self._entered:
            try:
                tell(stage)
            except Exception as fault:  # noqa: BLE001
                _report(tell, fault)

    def stage_left(self, stage: StageInfo) -> None:
        for tell in self._left:
            try:
                tell(stage)
            except Exception as fault:  # noqa: BLE001
                _report(tell, fault)

    def energy_attributed(self, stage: StageInfo, joules: Sequence[float], grams: float) -> None:
        for tell in self._attributed:
            try:
                tell(stage, joules, grams)
            except Exception as fault:  # noqa: BLE001
                _report(tell, fault)

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        for tell in self._closed:
            try:
                tell(stage, end)
            except Exception as fault:  # noqa: BLE001
                _report(tell, fault)

    def tick(self, tick: Tick) -> None:
        for sink in self._sinks:
            try:
                sink.tick(tick)
            except Exception as fault:  # noqa: BLE001
                _report(sink.tick, fault)


def _overrides(sink: Sink, event: str) -> bool:
    return getattr(type(sink), event) is not getattr(Sink, event)


def _report(listener: Callable[..., None], fault: Exception) -> None:
    log_fault(f"{getattr(listener, '__qualname__', listener)}", fault)
