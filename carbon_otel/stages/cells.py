"""The clocks of short calls: one for each kind of call, stage and thread, so that none waits for a lock."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from carbon_otel import clock
from carbon_otel.fork import renew_after_fork
from carbon_otel.guard import contain
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.open_stage import OpenStage
from carbon_otel.stages.outermost import Outermost
from carbon_otel.stages.parts import Part, Receiver
from carbon_otel.units import NS_PER_S

if TYPE_CHECKING:
    from carbon_otel.stages.shares import Parent

# The file of the code around calls. `warnings` skips frames of files with these two words: `stacklevel` counts as
# without our frame.
FILE: Final = "<carbon_otel, skipped by warnings like importlib._bootstrap>"
# The same, in the folder of a library that counts its frames itself.
COUNTED: Final = "<carbon_otel>"
# A call that lasts so long is a stage of its own.
LONG_NS: Final = NS_PER_S // 4
# Calls that take less between two ticks have no child: the stage around them keeps their energy.
_LEAST_NS: Final = NS_PER_S // 100
_now: Final = clock.monotonic_ns


@dataclass(frozen=True, eq=False)
class Share:
    """A call of a library, as a kind and a name that all its calls have.

    They have a child as soon as they have taken `least_ns` between two ticks.
    """

    kind: Lifecycle
    name: str
    least_ns: int = _LEAST_NS


class Cell:
    """The calls of one kind in one stage and one thread. Only that thread writes, but for `taken_ns` and `told`.

    It is what is around a call: entering it starts the clock.
    """

    __slots__ = (
        "_here",
        "begun_ns",
        "call",
        "calls",
        "covered_ns",
        "done_ns",
        "fresh",
        "own",
        "parent",
        "share",
        "taken_ns",
        "thread",
        "told",
        "units",
    )

    def __init__(self, share: Share, parent: Parent) -> None:
        self.share = share
        self.parent = parent
        self.thread = get_ident()
        self._here = _this_thread.here
        self.begun_ns = 0  # of the call in progress
        # The call in progress, if the calls in it are parts of it.
        self.call: Outermost | None = None
        self.done_ns = 0  # of all calls that have ended
        self.covered_ns = 0  # of the times in which any thread was in a call, those that have ended here
        self.calls = 0
        self.units: dict[str, float] = {}
        self.fresh: Mapping[str, float] = {}  # the units of the call in progress
        self.taken_ns = 0
        self.told: dict[str, float] = {}
        # For the stage of the call in progress, if it has one.
        self.own = Receiver()

    def __enter__(self) -> Callable[[Any], Any]:
        parent = self.parent
        self._here.inside = self
        self.begun_ns = begun_ns = _now()
        if not parent.inside:
            parent.inside_since_ns = begun_ns
        parent.inside.add(self)
        return _unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_ns = _now() - self.begun_ns
        if took_ns < LONG_NS and self.own.stage is None:
            self.stop(took_ns)
            self._count()
        else:
            self._end_long(took_ns, error)
        self._here.inside = None

    def stop(self, took_ns: int) -> None:
        """The call in progress has ended."""
        parent, begun_ns, loop = self.parent, self.begun_ns, self._here.loop
        self.begun_ns = 0
        self.done_ns += took_ns
        parent.inside.discard(self)
        if not parent.inside and begun_ns:
            self.covered_ns += max(0, begun_ns + took_ns - parent.inside_since_ns)
        if loop is not None:
            loop.elsewhere(parent, took_ns)

    def _end_long(self, took_ns: int, error: BaseException | None) -> None:
        if contain("ending a long call", False, self.parent.shares.end_long, self, took_ns, error):
            self.fresh = {}
        else:
            self.stop(took_ns if self.begun_ns else 0)
            self._count()

    def _count(self) -> None:
        self.calls += 1
        if self.fresh:
            for unit, amount in self.fresh.items():
                self.units[unit] = self.units.get(unit, 0.0) + amount
            self.fresh = {}

    def untaken(self, now_ns: int) -> list[tuple[Receiver, int]]:
        """The nanoseconds that have got no energy yet, and who gets it.

        A call that ends meanwhile may be counted twice, until the next look.
        """
        begun_ns = self.begun_ns
        running_ns = max(0, now_ns - begun_ns) if begun_ns else 0
        all_ns = max(0, self.done_ns + running_ns - self.taken_ns)
        own_ns = min(all_ns, running_ns) if self.own.stage is not None else 0
        return [(self.own, own_ns), (self.parent.receivers[self.share], all_ns - own_ns)]

    def take(self, receiver: Receiver, ns: int) -> None:
        self.taken_ns += ns

    def look(self, now_ns: int) -> None:
        """Before a tick: give a call that lasts a stage of its own."""
        begun_ns = self.begun_ns
        if not begun_ns or self.own.stage is not None or now_ns - begun_ns < LONG_NS:
            return
        if not _runs(self.thread):  # an exception has broken it off before its first line
            self.forget()
        else:
            self.parent.shares.open_own(self)

    def forget(self) -> None:
        """An exception has kept the call in progress from its end."""
        self.begun_ns = 0
        self.parent.inside.discard(self)
        if self.call is not None:
            self.call.over()

    def held_back(self) -> Sequence[Part]:
        return ()

    def finish(self) -> None:
        """The children are ended by `Shares`."""


def _unseen(result: Any) -> Any:
    return result


class Loop(Protocol):
    """What runs around the calls of a thread, and takes the same time."""

    def elsewhere(self, parent: Parent, ns: int) -> None: ...


class _Here:
    """The call and the loop in progress, and the cells by stage and call, of one thread.

    A cell is None where nothing is counted.
    """

    __slots__ = ("cells", "inside", "loop")

    def __init__(self) -> None:
        self.inside: Cell | None = None
        self.loop: Loop | None = None
        self.cells: dict[OpenStage, dict[Share, Cell | None]] = {}


class _ThisThread(threading.local):
    def __init__(self) -> None:
        self.here = _Here()


_this_thread = _ThisThread()


def _renew() -> None:
    """In a forked child: the cells belong to the stages of the parent process."""
    global _this_thread
    _this_thread = _ThisThread()


renew_after_fork(_renew)


def note_loop(loop: Loop | None) -> None:
    """Calls of this thread are inside of this loop from now on."""
    _this_thread.here.loop = loop


def inside() -> Cell | None:
    """The cell of the short call that is in progress in this thread."""
    cell = _this_thread.here.inside
    return cell if cell is not None and cell.begun_ns else None


def back_to(cell: Cell, took_ns: int) -> None:
    """A call in one of this cell has ended, which has its own time."""
    cell.begun_ns += took_ns
    _this_thread.here.inside = cell


def cells_here() -> dict[OpenStage, dict[Share, Cell | None]]:
    """The cells of this thread."""
    return _this_thread.here.cells


def cell_of(share: Share, stage: OpenStage) -> Cell | None:
    """The cell for a call in a stage that has one already; None else, and inside of another call.

    Raises KeyError if the stage has none for this call yet.
    """
    here = _this_thread.here
    if here.inside is not None and here.inside.begun_ns:
        return None
    return here.cells[stage][share]


def _runs(thread: int) -> bool:
    """Whether a function that was changed in place runs in a thread."""
    frame = sys._current_frames().get(thread)  # noqa: SLF001 - documented, in spite of its name
    while frame is not None:
        if frame.f_code.co_filename.endswith((FILE, COUNTED)):
            return True
        frame = frame.f_back
    return False
