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
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from carbon_otel.guard import log_fault
from carbon_otel.instrumentation.base import Undo
from carbon_otel.instrumentation.in_place import Around, Changed, innermost
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.automatic import CallStage, CountedCall, CountedShare, around, within
from carbon_otel.stages.shares import Cell, Share

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
        units: counts the functional units of a call that has returned.
        admits: the kinds of the automatic stages that may open in it.
        often: whether it may come by the thousand; such calls share the energy of the stage around them.
    """

    function: str
    kind: Lifecycle
    name: str | None = None
    units: CountUnits | None = None
    admits: Collection[str] = ()
    often: bool = False


class Calls:
    """Instruments calls of one module."""

    def __init__(self, module: str, *calls: Call) -> None:
        self.module = module
        self.calls: Sequence[Call] = calls

    def connect(self, module: ModuleType) -> Undo:
        changed = Changed()
        for call in self.calls:
            put_around_call(changed, attribute(module, call.function), call)
        return changed.undo


def put_around_call(changed: Changed, function: Any, call: Call) -> None:
    """Make the calls of the function stages; nothing, if it is not a Python function."""
    inner = innermost(function)
    if inner is not None:
        code = inner.__code__
        parameters = code.co_varnames[: code.co_argcount]
        if call.often:
            share = Share(call.kind, call.name or call.function)
            changed.put(inner, Around(_enter_often, share, call.units, parameters))
        else:
            changed.put(inner, Around(_enter, call, parameters))


def attribute(module: ModuleType, path: str) -> Any:
    """What a path such as `Booster.predict` leads to, without a call of a descriptor; None if there is nothing."""
    found: Any = module
    for name in path.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
    return found


def _enter(
    call: Call, parameters: tuple[str, ...], /, *args: Any, **kwargs: Any
) -> CallStage | CountedCall | None:
    # Not `contain`, because inner calls come by the thousand.
    try:
        name = call.name
        if name is None:
            name = _name(call, args[0])
        units = call.units and functools.partial(_count, call.units, parameters, args, kwargs)
        return around(call.kind, name, units, call.admits)
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
    return made if method == "__init__" else f"{made}.{method}"


def _count(
    units: CountUnits,
    parameters: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result: Any,
) -> Mapping[str, float]:
    return units({**dict(zip(parameters, args, strict=False)), **kwargs}, result)
