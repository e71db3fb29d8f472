"""The interface of a sink, and the records that it receives. A new backend is one new sink.

Every record is immutable and complete: a sink never asks the core for more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from carbon_otel.footprint import Footprint
from carbon_otel.guard import contain, log_fault
from carbon_otel.records import Foresight, RemoteCall, Snapshot, StageInfo, StageRecord

ToFootprint = Callable[[StageRecord], Footprint]


class Figures:
    """The figures of a stage at one moment, computed at the first access, once for all sinks."""

    __slots__ = ("_footprint", "_make", "_record", "_to_footprint")

    def __init__(self, make: Callable[[], StageRecord], to_footprint: ToFootprint) -> None:
        self._make = make
        self._to_footprint = to_footprint
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
            self._footprint = self._to_footprint(self.record)
        return self._footprint


class Killed(BaseException):
    """A signal has ended the process, and so the stages that were open."""


class StageEnd(NamedTuple):
    """The end of a stage.

    Attributes:
        end_ns: monotonic nanoseconds.
        duration_s: seconds from its opening.
        units: functional units of the stage, such as samples, that may be added to those of its kind.
        error: the exception that its block raised, or `Killed`.
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
    """The figures, at one tick, of the process and of the stages that are recorded while they are open.

    `wall_ns` is wall-clock nanoseconds. A run is left out if it has used nothing since the last checkpoint.
    """

    wall_ns: int
    process: Figures
    open: Mapping[StageInfo, Figures] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tick:
    """One reading of all devices. `checkpoint` is set when the figures of open stages must be saved.

    `embodied_g` are the grams of making the hardware for what this process has reserved so far, 0 if unknown.
    `shares` are this process's present shares of the devices. `view` has the figures of all open stages, while
    somebody looks at them.
    """

    now_ns: int
    devices: Snapshot
    checkpoint: Checkpoint | None = None
    embodied_g: float = 0.0
    shares: tuple[float, ...] = ()
    view: Checkpoint | None = None


# Waits at most the given seconds for the operation to end; returns whether it succeeded in that time.
Pending = Callable[[float], bool]


def nothing_pending(timeout_s: float) -> bool:
    """The `Pending` of a sink that has sent everything."""
    return True


class Sink:
    """Every method does nothing by default. None may block: disk and network belong to a worker thread.

    `stage_opened` and `stage_closed` frame a stage; `stage_entered` and `stage_left` frame the times in which
    it is the current stage of its thread or task: a suspended generator is open, but not entered, and an
    MLflow run is never entered. The stage methods are called on the application's threads, `tick` on the
    sampler's.
    """

    # Whether it is told of the end of a stage before the others, which it then tells more about that stage.
    closes_first: ClassVar[bool] = False

    def stage_opened(self, stage: StageInfo) -> None: ...

    def stage_entered(self, stage: StageInfo) -> None: ...

    def stage_left(self, stage: StageInfo) -> None: ...

    def energy_attributed(
        self, stage: StageInfo, joules: Sequence[float], grams: float, embodied_g: float
    ) -> None:
        """Exclusive joules per device, and grams, since the last call for this stage: at ticks and its end.

        `embodied_g` are the grams of making the hardware, 0 if they are unknown. A tick may report a stage that
        has just closed in another thread.
        """

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None: ...

    def remote_called(self, stage: StageInfo | None, call: RemoteCall) -> None:
        """A remote model was called in the stage, which may have ended, or in none. On the caller's thread."""

    def tick(self, tick: Tick) -> None: ...

    def foreseen(self, stage: StageInfo, foresight: Foresight) -> None:
        """An open stage has a forecast, or a newer one, or its forecast can now be compared. On any thread."""

    def hand_over(self, stage: StageInfo | None, variables: MutableMapping[str, str]) -> None:
        """Add what another process needs to continue the stage there; None if none is open. On any thread."""

    def place(self) -> str:
        """Where people find its figures, in words; empty while it has got none. On any thread."""
        return ""

    def flush(self, timeout_s: float) -> Pending:
        """Start sending everything unsent, and return at once."""
        return nothing_pending

    def close(self, timeout_s: float) -> Pending:
        """Start sending everything unsent and releasing all resources, and return at once."""
        return nothing_pending


class Fanout:
    """Passes each event to the sinks that handle it. An exception of a sink is logged once and goes no further."""

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
        # In the reverse order of entering: two sinks may have put their spans into one context.
        self._left = [s.stage_left for s in reversed(sinks) if _overrides(s, "stage_left")]
        self._attributed = [s.energy_attributed for s in sinks if _overrides(s, "energy_attributed")]
        self._ticked = [s.tick for s in sinks if _overrides(s, "tick")]
        self._remote = [s.remote_called for s in sinks if _overrides(s, "remote_called")]
        in_turn = sorted(sinks, key=lambda sink: not sink.closes_first)
        self._closed = [s.stage_closed for s in in_turn if _overrides(s, "stage_closed")]

    def stage_opened(self, stage: StageInfo) -> None:
        for listener in self._opened:
            try:
                listener(stage)
            except BaseException as fault:  # noqa: BLE001 - a sink may raise anything
                _report(fault, self._opened, listener, stage)

    def stage_entered(self, stage: StageInfo) -> None:
        for listener in self._entered:
            try:
                listener(stage)
            except BaseException as fault:  # noqa: BLE001 - a sink may raise anything
                _report(fault, self._entered, listener, stage)

    def stage_left(self, stage: StageInfo) -> None:
        for listener in self._left:
            try:
                listener(stage)
            except BaseException as fault:  # noqa: BLE001 - a sink may raise anything
                _report(fault, self._left, listener, stage)

    def energy_attributed(
        self, stage: StageInfo, joules: Sequence[float], grams: float, embodied_g: float
    ) -> None:
        for listener in self._attributed:
            try:
                listener(stage, joules, grams, embodied_g)
            except BaseException as fault:  # noqa: BLE001 - a sink may raise anything
                _report(fault, self._attributed, listener, stage, joules, grams, embodied_g)

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        for listener in self._closed:
            try:
                listener(stage, end)
            except BaseException as fault:  # noqa: BLE001 - a sink may raise anything
                _report(fault, self._closed, listener, stage, end)

    def remote_called(self, stage: StageInfo | None, call: RemoteCall) -> None:
        for listener in self._remote:
            contain("telling a sink", None, listener, stage, call)

    def tick(self, tick: Tick) -> None:
        for listener in self._ticked:
            try:
                listener(tick)
            except BaseException as fault:  # noqa: BLE001 - a sink may raise anything
                _report(fault, self._ticked, listener, tick)

    def foreseen(self, stage: StageInfo, foresight: Foresight) -> None:
        for sink in self._sinks:
            contain("telling a sink of a forecast", None, sink.foreseen, stage, foresight)


def _overrides(sink: Sink, event: str) -> bool:
    return getattr(type(sink), event) is not getattr(Sink, event)


def _report(
    fault: BaseException,
    listeners: Sequence[Callable[..., None]],
    listener: Callable[..., None],
    *event: object,
) -> None:
    """Log the fault of a listener. If it arrived from outside, tell the other listeners, and raise it again."""
    try:
        if not isinstance(fault, Exception):
            raise fault
        log_fault(f"{getattr(listener, '__qualname__', listener)}", fault)
    except BaseException:
        for other in listeners[listeners.index(listener) + 1 :]:
            contain("telling a sink", None, other, *event)
        raise
