"""Puts something of ours around a function by a change of its code. The function stays the same object.

Whoever has imported the function by name, wrapped it or stored it before gets the change, too, and the order of
patches does not matter. The new code has the parameters of the old code, so that signatures and the errors of
wrong calls stay the same. A private copy of the function keeps the old code:

    def fit(self, X, y=None):
        call = <outermost>()
        if call and call.stage is <current>():
            return <original>(self, X, y)
        entered = <enter>(self, X, y)
        if not entered:
            return <original>(self, X, y)
        with entered as seen:
            return seen(<original>(self, X, y))

`<enter>` and the others are constants of the code. The first question is only there if a call within another one
is a part of that. Where a function is pickled by value, as cloudpickle does with the classes of a script, the copy
goes with it, and the others become functions of the standard library that enter nothing: the result loads where
carbon_otel is not installed.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MappingProxyType, TracebackType
from typing import Any, Final, Protocol, cast
from weakref import WeakSet

from carbon_otel.guard import contain
from carbon_otel.stages.cells import COUNTED
from carbon_otel.stages.cells import FILE as FILE
from carbon_otel.stages.open_stage import current
from carbon_otel.stages.outermost import outermost

# Libraries that warn at the first frame outside of their folder, and count the frames up to there.
_COUNTING: Final = ("pandas", "polars")

_LAZY: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_VARIADIC: Final = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
# A code with these last variables is one of ours. Its file may have another name, if it was pickled by value.
_LOCALS: Final = ("_around_enter", "_around_original", "_around_entered", "_around_seen")
_ENTER: Final = "enter"
_ORIGINAL: Final = "original"
_OUTERMOST: Final = "outermost"
_CURRENT: Final = "current"
_DEEPEST: Final = 50


class Entered(Protocol):
    """What is around one call. Entering it gives the function that sees the result, and gives it back."""

    def __enter__(self) -> Callable[[Any], Any]: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Around(functools.partial["Entered | None"]):
    """The constant `<enter>`: a function of ours, and what it gets before the arguments of the call.

    The call gives its positional parameters by place, with their defaults, and the others as they are. The
    function returns what is around the call, or None. It raises nothing.
    """

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        # It takes any arguments, and returns "".
        return getattr, ("", "format")


class AroundOutermost(Around):
    """The same for a call that is not looked at if it is part of another one (`outermost.py`)."""

    __slots__ = ()


# What a stub asks. They are kept out of a pickle in the same way.
_IN_CALL: Final = Around(cast(Any, outermost.get))
_IN_STAGE: Final = Around(cast(Any, current.get))


def unseen(result: Any) -> Any:
    """What enters a call that does not look at its result."""
    return result


class After:
    """Calls a function of ours once the call has ended without an exception."""

    __slots__ = ("_about", "_call", "_task")

    def __init__(self, task: str, call: Callable[[Any], None], about: Any) -> None:
        self._task = task
        self._call = call
        self._about = about

    def __enter__(self) -> Callable[[Any], Any]:
        return unseen

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            contain(self._task, None, self._call, self._about)


class Changed:
    """The functions that one integration has changed. It keeps none of them alive."""

    def __init__(self) -> None:
        self._functions: WeakSet[FunctionType] = WeakSet()

    def put(
        self, attribute: Any, around: Around, descriptors: Mapping[type, str] = MappingProxyType({})
    ) -> None:
        """Put `around` around the innermost function of the attribute, if there is one."""
        function = innermost(attribute, descriptors)
        if function is not None and put_around(function, around):
            self._functions.add(function)

    def undo(self) -> None:
        for function in tuple(self._functions):
            take_away(function)
        self._functions.clear()


def innermost(attribute: Any, descriptors: Mapping[type, str] = MappingProxyType({})) -> FunctionType | None:
    """The function that was there before others wrapped it; None if there is no plain function.

    A wrapper that others have put around the function before us is passed over, and one that they put around it
    later is outside of it, too. So the order makes no difference. `descriptors` has the types of descriptors that
    keep a function, and the name of its attribute.
    """
    found = None
    for _ in range(_DEEPEST):
        for descriptor, name in descriptors.items():
            if type(attribute) is descriptor:
                attribute = getattr(attribute, name, None)
        if type(attribute) is not FunctionType:
            break
        found = attribute
        if is_changed(found):
            break
        attribute = found.__dict__.get("__wrapped__")
    return found


def put_around(function: FunctionType, around: Around) -> bool:
    """Change the code of the function; False if that is done already, or if its calls do their work later."""
    original = _original_of(function)
    if original is not None and any(isinstance(each, Around) for each in function.__code__.co_consts):
        return False
    code = function.__code__ if original is None else original.__code__
    if code.co_flags & _LAZY:
        return False
    if original is None:
        original = _copy(function)
    function.__code__ = _stub(code, around, original)
    function.__dict__.setdefault("__wrapped__", original)
    return True


def take_away(function: FunctionType) -> None:
    """Give the function its own code back."""
    original = _original_of(function)
    if original is not None:
        function.__code__ = original.__code__
        if function.__dict__.get("__wrapped__") is original:
            del function.__dict__["__wrapped__"]


def is_changed(function: FunctionType) -> bool:
    """Whether something is around the function, here or where it was pickled."""
    return function.__code__.co_varnames[-len(_LOCALS) :] == _LOCALS


def _original_of(function: FunctionType) -> FunctionType | None:
    if not is_changed(function):
        return None
    return next(each for each in function.__code__.co_consts if type(each) is FunctionType)


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(function.__code__, function.__globals__, closure=function.__closure__)
    functools.update_wrapper(copy, function)
    copy.__dict__.clear()
    copy.__dict__.update(function.__dict__)
    copy.__defaults__, copy.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return copy


def _stub(code: CodeType, around: Around, original: FunctionType) -> CodeType:
    positional, keyword = code.co_argcount, code.co_kwonlyargcount
    template = _template(
        positional,
        code.co_posonlyargcount,
        code.co_varnames[positional : positional + keyword],
        code.co_flags & _VARIADIC,
        len(code.co_freevars),
        isinstance(around, AroundOutermost),
    )
    parameters = positional + keyword + (code.co_flags & _VARIADIC).bit_count()
    constants = {_ENTER: around, _ORIGINAL: original, _OUTERMOST: _IN_CALL, _CURRENT: _IN_STAGE}
    changes: dict[str, Any] = {
        "co_consts": tuple(
            constants.get(each, each) if type(each) is str else each for each in template.co_consts
        ),
        "co_varnames": code.co_varnames[:parameters] + template.co_varnames[parameters:],
        "co_name": code.co_name,
        "co_filename": _file_of(code, original),
        "co_freevars": code.co_freevars,
    }
    if hasattr(code, "co_qualname"):
        changes["co_qualname"] = code.co_qualname
    return template.replace(**changes)


def _file_of(code: CodeType, original: FunctionType) -> str:
    """The file of the stub's frame, so that a warning in the function is shown at the same line as without it."""
    library = str(original.__globals__.get("__name__")).partition(".")[0]
    return str(Path(code.co_filename).parent / COUNTED) if library in _COUNTING else FILE


@functools.cache
def _template(
    positional: int, only_positional: int, keywords: tuple[str, ...], variadic: int, free: int, asks: bool
) -> CodeType:
    """The compiled stub for one form of parameters. It hands positional ones on by place, whatever their names.

    `asks` says whether it asks first if the call is part of another one.

    It has as many `free` variables as the function has cells. They are copied into the frame, where a debugger
    looks for them, only if the compiler knows of them.
    """
    names = [f"_around_{n}" for n in range(positional)]
    parameters, call = list(names), list(names)
    if only_positional:
        parameters.insert(only_positional, "/")
    if variadic & inspect.CO_VARARGS:
        parameters.append("*_around_args")
        call.append("*_around_args")
    elif keywords:
        parameters.append("*")
    parameters += keywords
    call += [f"{name}={name}" for name in keywords]
    if variadic & inspect.CO_VARKEYWORDS:
        parameters.append("**_around_kwargs")
        call.append("**_around_kwargs")
    cells = ", ".join(f"_around_cell_{n:04}" for n in range(free))  # sorted, as the compiler does
    asked = f"""
        _around_entered = {_OUTERMOST!r}
        _around_seen = {_CURRENT!r}
        _around_entered = _around_entered()
        if _around_entered and _around_entered.stage is _around_seen():
            return _around_original({", ".join(call)})
"""
    source = f"""\
def make({cells}):
    def stub({", ".join(parameters)}):
        if 0: ({cells})
        _around_enter = {_ENTER!r}
        _around_original = {_ORIGINAL!r}
{asked if asks else ""}
        _around_entered = _around_enter({", ".join(call)})
        if not _around_entered:
            return _around_original({", ".join(call)})
        with _around_entered as _around_seen:
            return _around_seen(_around_original({", ".join(call)}))
    return stub
"""
    namespace: dict[str, Any] = {}
    exec(compile(source, FILE, "exec", dont_inherit=True), namespace)
    return cast(CodeType, namespace["make"](*[None] * free).__code__)
