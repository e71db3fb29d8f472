"""A stage while it is open, and its record at any moment."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, NamedTuple

from carbon_otel.fork import renew_after_fork
from carbon_otel.meter.meter import NO_EDGE, EdgeState
from carbon_otel.records import StageInfo, StageRecord
from carbon_otel.sensors.base import Sensor
from carbon_otel.sinks import StageEnd
from carbon_otel.stages.accounts import Account, Totals
from carbon_otel.stages.allowance import Allowance
from carbon_otel.stages.sums import Joules, added
from carbon_otel.stages.tally import Tally
from carbon_otel.stages.uncertainty import by_time_share, device_energies, shares_between
from carbon_otel.units import S_PER_NS

if TYPE_CHECKING:
    from carbon_otel.stages.engine import Engine
    from carbon_otel.stages.outermost import Outermost
    from carbon_otel.stages.pace import Pace

current: ContextVar[OpenStage | None] = ContextVar("carbon_otel_stage", default=None)


# The unit of a child of calls that share: how many they are.
CALLS: Final = "calls"


class _Thread(threading.local):
    """The kernel's id of each thread, asked for once: that is a system call."""

    def __init__(self) -> None:
        self.native_id = threading.get_native_id()


_here = _Thread()


def _renew() -> None:
    """In a forked child its thread has another id."""
    global _here
    _here = _Thread()


renew_after_fork(_renew)


class Split(NamedTuple):
    """How the energy of calls was divided off the stage around them.

    Attributes:
        busy_s: seconds in which the calls ran.
        least_j: the least joules of each device that the calls can have drawn.
        most_j: the most.
    """

    busy_s: float
    least_j: Joules
    most_j: Joules

    def plus(self, busy_s: float, least_j: Joules, most_j: Joules) -> Split:
        return Split(self.busy_s + busy_s, added(self.least_j, least_j), added(self.most_j, most_j))


class OpenStage:
    """One execution of a stage. Only this package holds it; sinks get its `info`."""

    __slots__ = (
        "account",
        "admits",
        "allowance",
        "begin",
        "call",
        "counted",
        "end",
        "engine",
        "info",
        "native_thread",
        "opened_ns",
        "owner",
        "paces",
        "parent",
        "recorded",
        "run",
        "split",
        "units",
        "untold",
    )

    def __init__(
        self,
        engine: Engine,
        info: StageInfo,
        parent: OpenStage | None,
        account: Account,
        *,
        recorded: bool = False,
    ) -> None:
        self.engine = engine
        self.info = info
        self.parent = parent
        self.run: OpenStage | None = self if info.run_id and info.is_run else parent.run if parent else None
        self.account = account
        self.recorded = recorded
        self.units: dict[str, float] = {}
        # The same as instrumented calls have counted them, where the user has set none of that name.
        self.counted = Tally()
        # The kinds of the automatic stages that may open in it, if an instrumented call has opened it.
        self.admits: Collection[str] | None = None
        # That call, while it is in progress, if no stage opens in it.
        self.call: Outermost | None = None
        # How its energy was divided off another stage, if it was.
        self.split: Split | None = None
        # Of a run, or of the process: how many stages may still open inside automatic stages.
        self.allowance: Allowance | None = None
        # How often calls come in it, by kind and name.
        self.paces: dict[tuple[str, str], Pace] = {}
        self.native_thread = _here.native_id
        self.opened_ns = 0
        self.begin = NO_EDGE
        self.end: StageEnd | None = None
        # The object of the application that ends it.
        self.owner: weakref.ref[object] | None = None
        # What the sinks have not been told of its end: whom to call, and with what besides its `info`.
        self.untold: Iterator[tuple[Callable[..., None], tuple[object, ...]]] = iter(())

    @property
    def open(self) -> bool:
        return self.end is None

    @property
    def age_s(self) -> float:
        """Seconds since it has opened."""
        return (self.engine.meter.clock_ns() - self.opened_ns) * S_PER_NS

    @property
    def all_units(self) -> dict[str, float]:
        return {**self.counted.total(), **self.units} if self.counted else dict(self.units)

    @property
    def units_of_kind(self) -> dict[str, float]:
        """The units that may be added to those of other stages of its kind.

        Of calls that come often, some are stages and count no `calls`. A sum would have only the number of the
        others.
        """
        units = self.all_units
        if self.split is not None:
            units.pop(CALLS, None)
        return units

    def count(self, units: Mapping[str, float]) -> None:
        """Add what instrumented calls have counted."""
        self.counted.add(units)

    def affords_stage(self) -> bool:
        """Whether one more automatic stage may open in it; it then counts for the run, or the process."""
        now_ns = self.engine.meter.clock_ns()
        whole = self.run or self.engine.root
        if whole.allowance is None:
            whole.allowance = Allowance(now_ns)
        return whole.allowance.take(now_ns)

    def is_in(self, run: OpenStage) -> bool:
        """Whether this is the stage of that run, or below it."""
        if self.run is run:
            return True
        account: Account | None = self.account
        while account is not None and account is not run.account:
            account = account.parent
        return account is not None


def leave(opened: OpenStage, before: OpenStage | None) -> None:
    """Make the stage current that was so before; nothing in a context in which another stage is current.

    A stage may be left in another context than it was entered in, or after one that was entered later (streams,
    asyncio callbacks, pytest fixtures).
    """
    if current.get() is opened:
        while before is not None and not before.open:
            before = before.parent
        current.set(before)


def record_at(
    stage: OpenStage, sensors: Sequence[Sensor], edge: EdgeState, totals: Totals
) -> functools.partial[StageRecord]:
    """The function that makes the record of a stage at an edge.

    Its arguments are copies, because the stage may continue before the function is called.
    """
    return functools.partial(
        _record,
        stage.info,
        tuple(sensors),
        stage.begin,
        edge,
        stage.opened_ns,
        totals,
        stage.all_units,
        stage.split,
    )


def _record(
    info: StageInfo,
    sensors: Sequence[Sensor],
    begin: EdgeState,
    end: EdgeState,
    opened_ns: int,
    totals: Totals,
    units: dict[str, float],
    split: Split | None,
) -> StageRecord:
    duration_s = (end.now_ns - opened_ns) * S_PER_NS
    devices = device_energies(sensors, begin, end, totals.exclusive_j, totals.inclusive_j)
    if split is not None:
        duration_s = split.busy_s
        devices = by_time_share(devices, split.least_j, split.most_j)
    return StageRecord(
        kind=info.kind,
        name=info.name,
        start_unix_ns=info.start_unix_ns,
        duration_s=duration_s,
        devices=devices,
        exclusive_g=totals.exclusive_g,
        inclusive_g=totals.inclusive_g,
        units=units,
        by_kind=totals.by_kind,
        shares=shares_between(begin, end),
        exclusive_embodied_g=totals.exclusive_embodied_g,
        inclusive_embodied_g=totals.inclusive_embodied_g,
        embodied_by_kind=totals.embodied_by_kind,
    )


class _Owner:
    """What ends a stage."""


# The owner of a stage that the next tick ends.
NOBODY: Final[weakref.ref[object]] = weakref.ref(_Owner())
