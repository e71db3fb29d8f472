"""The parts of a call, such as the epochs of a training, as stages in the stage of the call.

A library tells of them by functions of its own: one is called where an epoch begins, and one where it ends.

    Call("Trainer.fit", "training", admits=(EPOCH, "evaluation"), within=Children),
    Hook("Loop.on_epoch_begin", begins(lambda loop: (loop.trainer, f"epoch {loop.epoch + 1}"))),
    Hook("Loop.on_epoch_end", ends(lambda loop: loop.trainer)),

So no callback is added to what the user has made, and none is left there. An epoch that an exception ends has no
end of its own: it ends with the call.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from carbon_otel.guard import contain
from carbon_otel.instrumentation.in_place import unseen
from carbon_otel.stages.api import Stage
from carbon_otel.stages.arguments import LIFECYCLE
from carbon_otel.stages.automatic import part
from carbon_otel.stages.open_stage import OpenStage, current

# The words by which a `Call` admits parts.
EPOCH: Final = "epoch"
TRIAL: Final = "trial"
# What may open in a part: a training validates, and a trial does anything.
_ADMITTED: Final = {EPOCH: ("evaluation",), TRIAL: LIFECYCLE}


class Children:
    """The parts of one call on an object: at most one is open at a time.

    Args:
        owner: the object.
        count: functional units so far. A part has its own ones if it belongs to another experiment run than the
            stage of the call; else that has the units of all parts.

    `noted` is what a hook of the library has noted at the beginning of the first part.
    """

    __slots__ = ("__weakref__", "_before", "_call", "_count", "_counted", "_open", "noted", "owner")

    def __init__(self, owner: Any, count: Callable[[], Mapping[str, float]] | None = None) -> None:
        self.owner = owner
        self.noted: Any = None
        self._count = count
        self._counted: Mapping[str, float] | None = None
        self._call: OpenStage | None = None
        self._open: Stage | None = None
        self._before: weakref.ref[Children] | None = None

    def __enter__(self) -> Callable[[Any], Any]:
        self._before = _here.get()
        self._call = current.get()
        _here.set(weakref.ref(self))
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end(kind, error, trace)
        finally:
            _here.set(self._before)

    def begin(self, word: str, name: str) -> None:
        self.end()
        opened = part(self._call, word, name, _ADMITTED[word])
        if opened is not None:
            # First, so that it ends with this object if an exception arrives meanwhile.
            self._open = opened
            opened.__enter__()
            here = current.get()
            if self._count is not None and here is not None and self._call and here.run is not self._call.run:
                self._counted = self._count()

    def end(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        opened, self._open = self._open, None
        before, self._counted = self._counted, None
        if opened is not None:
            if before is not None:
                contain("counting units", None, self._add, opened, before)
            opened.__exit__(kind, error, trace)

    def _add(self, opened: Stage, before: Mapping[str, float]) -> None:
        if self._count is not None:
            opened.units(**{unit: now - before.get(unit, 0.0) for unit, now in self._count().items()})


# Not kept alive by its context: an exception may arrive before the call is entered, and then nobody leaves it.
_here: ContextVar[weakref.ref[Children] | None] = ContextVar("carbon_otel_children", default=None)


def children_of(owner: Any) -> Children | None:
    """The parts of the call in progress on the object, if the innermost call with parts is on that."""
    reference = _here.get()
    children = None if reference is None else reference()
    return children if children is not None and children.owner is owner else None


def begins(
    read: Callable[..., tuple[Any, str]], note: Callable[[Any], Any] | None = None
) -> Callable[..., None]:
    """What a `Hook` puts around the function that a library calls where an epoch begins.

    `read` gets the arguments, and returns the object of the call and the name of the epoch; `note` gets the
    object.
    """

    def begin(*arguments: Any) -> None:
        owner, name = read(*arguments)
        children = children_of(owner)
        if children is not None:
            if note is not None and children.noted is None:
                children.noted = note(owner)
            children.begin(EPOCH, name)

    def enter(*arguments: Any, **_: Any) -> None:
        contain("opening the stage of an epoch", None, begin, *arguments)

    return enter


def ends(read: Callable[..., Any]) -> Callable[..., _Ending | None]:
    """The same where an epoch ends: its stage ends after the function. `read` returns the object of the call."""

    def find(*arguments: Any) -> _Ending | None:
        children = children_of(read(*arguments))
        return None if children is None else _Ending(children)

    def enter(*arguments: Any, **_: Any) -> _Ending | None:
        return contain("closing the stage of an epoch", None, find, *arguments)

    return enter


class _Ending:
    __slots__ = ("_children",)

    def __init__(self, children: Children) -> None:
        self._children = children

    def __enter__(self) -> Callable[[Any], Any]:
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._children.end(kind, error, trace)
