"""Tables of the calls of a library that become stages: one file for each library, one table for each module of it.

    LIBRARY = (
        Calls("xgboost.training", Call("train", "training", "xgboost.train", _trained)),
        Calls("xgboost.core", Call("Booster.predict", "inference", units=_predicted)),
    )

The code of the functions is changed, see `in_place.py`, so an earlier `from xgboost import train` is measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import log_fault
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import Around, AroundOutermost, Changed, Entered, innermost
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.automatic import around
from carbon_otel.stages.cells import Cell, Share
from carbon_otel.stages.frequent import FREQUENT, around_frequent
from carbon_otel.stages.short_calls import CountedShare, within

# The units of a call, from its arguments by the names of the parameters, and its result.
CountUnits = Callable[[Mapping[str, Any], Any], Mapping[str, float]]

# As `type` reads it, whatever a metaclass says.
name_of_type: Final = type.__dict__["__name__"].__get__


@dataclass(frozen=True)
class Call:
    """A call that becomes a stage.

    Args:
        function: the name in the module, such as `train` or `Booster.predict`.
        kind: the kind of the stage.
        name: the name of the stage; by default the class of the object and the method.
        units: counts the functional units of a call that has returned; of a stream that has ended, with what
            `within` has made in the place of the result.
        admits: the kinds of the automatic stages that may open in it, and the words of its parts (`children.py`).
        within: makes, from the first argument, what is entered with the call and left before its stage ends;
            it is entered at each step of a stream, too.
        when: tells from the arguments whether the call does its work before it returns; by default each does.
        often: whether it may come by the thousand; such calls share the energy of the stage around them.
        streams: whether it may return a generator that does the work; the stage then ends with that.
        counts_failed: whether `units` can tell, with None as the result, what a call has done that has raised.
    """

    function: str
    kind: Lifecycle
    name: str | None = None
    units: CountUnits | None = None
    admits: Collection[str] = ()
    within: Callable[[Any], AbstractContextManager[object]] | None = None
    when: Callable[[Mapping[str, Any]], bool] | None = None
    often: bool = False
    streams: bool = False
    counts_failed: bool = False

    @property
    def may_share(self) -> bool:
        """Whether it is no stage while it comes often."""
        return self.kind in FREQUENT and not (self.admits or self.within or self.streams)

    def around(self, parameters: tuple[str, ...]) -> Around:
        if self.often:
            share = Share(self.kind, self.name or self.function)
            return AroundOutermost(_enter_often, share, self.units, parameters)
        return AroundOutermost(_enter, self, parameters)


@dataclass(frozen=True)
class Hook:
    """A function by which a library tells of something; `enter` gets its arguments, as `in_place.py` says."""

    function: str
    enter: Callable[..., Entered | None]

    def around(self, parameters: tuple[str, ...]) -> Around:
        return Around(self.enter)


class Calls:
    """Instruments calls of one module."""

    def __init__(self, module: str, *calls: Call | Hook) -> None:
        self.module = module
        self.calls: Sequence[Call | Hook] = calls

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        for call in self.calls:
            # Nothing, if it is not a Python function.
            function = innermost(attribute(module, call.function))
            if function is not None:
                code = function.__code__
                changed.put(function, call.around(code.co_varnames[: code.co_argcount]))
        return changed.undo


def attribute(module: ModuleType, path: str) -> Any:
    """What a path such as `Booster.predict` leads to, without a call of a descriptor; None if there is nothing."""
    found: Any = module
    for name in path.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
    return found


def _enter(call: Call, parameters: tuple[str, ...], /, *args: Any, **kwargs: Any) -> Entered | None:
    # Not `contain`, because inner calls come by the thousand.
    try:
        if call.when is not None and not call.when(_named(parameters, args, kwargs)):
            return None
        name = call.name
        if name is None:
            name = _name(call, args[0])
        units = call.units and functools.partial(_count, call.units, parameters, args, kwargs)
        if call.may_share:
            return around_frequent(call.kind, name, units)
        within = call.within and functools.partial(call.within, args[0])
        return around(call.kind, name, units, call.admits, within, call.streams, call.counts_failed)
    except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
        log_fault("opening a stage", fault)
        return None


def _enter_often(
    share: Share, units: CountUnits | None, parameters: tuple[str, ...], /, *args: Any, **kwargs: Any
) -> Cell | CountedShare | None:
    try:
        return within(share, units and functools.partial(_count, units, parameters, args, kwargs))
    except Exception as fault:  # noqa: BLE001 - as above
        log_fault("measuring a call", fault)
        return None


def _name(call: Call, owner: Any) -> str:
    method = call.function.rpartition(".")[2]
    made = name_of_type(type(owner))
    return made if method in ("__init__", "__call__") else f"{made}.{method}"


def _count(
    units: CountUnits,
    parameters: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result: Any,
) -> Mapping[str, float]:
    return units(_named(parameters, args, kwargs), result)


def _named(
    parameters: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Mapping[str, Any]:
    return {**dict(zip(parameters, args, strict=False)), **kwargs}
