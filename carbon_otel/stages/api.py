"""The stage that users open: a context manager, sync and async, and a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
import re
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, MutableMapping
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Protocol, TypeVar, cast, get_args

from carbon_otel import runtime
from carbon_otel.footprint import NOT_MEASURED, Footprint
from carbon_otel.guard import contain, log_fault
from carbon_otel.records import RUN, UNATTRIBUTED, AttributeValue
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import OpenStage, current

F = TypeVar("F", bound=Callable[..., Any])

Lifecycle = Literal["data_processing", "training", "evaluation", "inference"]
LIFECYCLE: Final[tuple[str, ...]] = get_args(Lifecycle)
_KIND = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,63}")
_UNIT = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


class Recorder(Protocol):
    """The measurement in which stages are opened."""

    @property
    def engine(self) -> Engine: ...

    def synchronize(self) -> None:
        """Wait until the accelerator has finished its queued work."""

    def inject(self, environment: MutableMapping[str, str]) -> None: ...


def recorder() -> Recorder | None:
    """The measurement of this process, if any."""
    return cast("Recorder | None", runtime.active())


class Stage:
    """Measure a block, a function, a generator or a coroutine as one stage.

        with carbon_otel.stage("training") as s:
            model.fit(X, y)
            s.units(samples=len(X))
        print(s.footprint.energy_wh, s.footprint.emissions_g)

        @carbon_otel.stage("data_processing", "clean")
        def clean(frame): ...

    Args:
        kind: `data_processing`, `training`, `evaluation`, `inference`, or your own name: letters, digits, `_`, `.`
            and `-`, starting with a letter or `_`, at most 64 characters.
        name: name of the span; the kind by default.
        attributes: put on the span as they are: str, bool, int, float, or lists of one of these. Attributes with
            plain names may also be given as keywords.

    Raises:
        ValueError: for a kind, name or attribute that OpenTelemetry or MLflow would not accept.

    Nested, concurrent and asynchronous stages may be open at once; the innermost ones get the energy. A decorated
    function opens a new stage at each call. Before `carbon_otel.instrument()` a stage does nothing, and its
    footprint is marked as not measured.
    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_entered",
        "_kind",
        "_last",
        "_name",
        "_recorder",
        "_units",
    )

    def __init__(
        self,
        kind: Lifecycle | str,
        name: str | None = None,
        *,
        attributes: Mapping[str, Any] = MappingProxyType({}),
        **more: Any,
    ) -> None:
        self._entered: list[_Entered] = []
        self._kind = _check_kind(kind)
        self._name = kind if name is None else _check_name(name)
        self._attributes = {k: _check_attribute(k, v) for k, v in {**attributes, **more}.items()}
        self._units: dict[str, float] = {}
        self._last: OpenStage | None = None
        self._recorder: Recorder | None = None

    def units(self, **units: float) -> Stage:
        """Set functional units, such as `samples=10_000`, `tokens=…`, `epochs=…`.

        The footprint then has joules and grams per unit. Raises ValueError for a negative or infinite number.
        """
        for unit, amount in units.items():
            if not _UNIT.fullmatch(unit):
                raise ValueError(f"unit {unit!r}: write a plain name, such as samples")
            self._units[unit] = _check_amount(unit, amount)
        if self._last is not None:
            self._last.units.update(self._units)
        return self

    @property
    def footprint(self) -> Footprint:
        """The footprint of the stage: final after its end, so far while it is open."""
        if self._last is None:
            return NOT_MEASURED
        footprint = contain("computing a footprint", NOT_MEASURED, _footprint, self._last)
        # Units may be set after the stage has ended.
        return replace(footprint, units=dict(self._units)) if footprint.units != self._units else footprint

    def __enter__(self) -> Stage:
        depth = len(self._entered)
        try:
            entered = _Entered()
            self._entered.append(entered)
            # Not `contain`, here and below, because it takes a tenth of a microsecond.
            try:
                self._begin(entered)
            except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
                log_fault("opening a stage", fault)
            return self
        except BaseException:  # Python does not call `__exit__` then
            self._end_from(depth)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = None
        try:
            entered = self._entered[-1] if self._entered else None
            if entered is not None:
                try:
                    self._end(entered, error)
                except Exception as fault:  # noqa: BLE001 - as above
                    log_fault("closing a stage", fault)
                self._entered.pop()
        except BaseException:
            if entered is None:
                self._end_from(len(self._entered) - 1, error)
            else:
                self._end(entered, error)
                if self._entered and self._entered[-1] is entered:
                    self._entered.pop()
            raise

    async def __aenter__(self) -> Stage:
        depth = len(self._entered)
        try:
            return self.__enter__()
        except BaseException:
            self._end_from(depth)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        depth = len(self._entered) - 1
        try:
            self.__exit__(kind, error, trace)
        except BaseException:
            self._end_from(depth, error)
            raise

    def __call__(self, function: F) -> F:
        if inspect.isasyncgenfunction(function):
            wrapped: Any = self._around_async_generator(function)
        elif inspect.isgeneratorfunction(function):
            wrapped = self._around_generator(function)
        elif inspect.iscoroutinefunction(function):

            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                async with self._again():
                    return await function(*args, **kwargs)

        else:

            def wrapped(*args: Any, **kwargs: Any) -> Any:
                with self._again():
                    return function(*args, **kwargs)

        return cast(F, functools.wraps(function)(wrapped))

    def _again(self) -> Stage:
        fresh = Stage.__new__(Stage)
        fresh._kind, fresh._name, fresh._attributes = self._kind, self._name, self._attributes
        fresh._units, fresh._entered, fresh._last, fresh._recorder = {}, [], None, None
        return fresh

    def _begin(self, entered: _Entered) -> None:
        active = recorder()
        if active is None:
            return
        active.synchronize()
        engine, before = active.engine, current.get()
        while before is not None and not before.open:  # an exception has kept it from being left
            before = before.parent
        opened = engine.prepare(self._kind, self._name, self._attributes, before)
        if self._units:
            opened.units.update(self._units)
        # If an exception arrives just before the first line of `__exit__`, only the end of this object shows it.
        opened.owner = weakref.ref(self, engine.abandoned)
        entered.before, entered.opened = before, opened
        engine.begin(opened)
        self._recorder, self._last = active, opened
        current.set(opened)
        engine.enter(opened)

    def _end(self, entered: _Entered, error: BaseException | None) -> None:
        """End a stage; what is done stays done if this is called again after an exception."""
        opened = entered.opened
        if opened is None:
            return
        engine = opened.engine
        self._last = opened
        # In a child forked inside the block the stage is the parent's: the child leaves it, but does not end it.
        try:
            if engine.alive and self._recorder is not None and opened.end is None:
                self._recorder.synchronize()
        finally:  # KeyboardInterrupt ends the wait for the accelerator, and the stage ends all the same
            engine.leave(opened)
            if engine.alive:
                engine.close(opened, error)
            entered.leave()

    def _end_from(self, depth: int, error: BaseException | None = None) -> None:
        """End what was entered beyond this depth, after an exception in the midst of it."""
        while len(self._entered) > max(0, depth):
            self._end(self._entered[-1], error)
            self._entered.pop()

    def _around_generator(self, function: Callable[..., Generator[Any, Any, Any]]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            line = _SuspendableStage(self._again())
            inner = function(*args, **kwargs)
            try:
                step: Callable[[], Any] = functools.partial(next, inner)
                while True:
                    try:
                        with line:
                            item = step()
                    except StopIteration as stop:
                        return stop.value
                    try:
                        sent = yield item
                        step = functools.partial(inner.send, sent)
                    except GeneratorExit:
                        line.close(inner)
                        raise
                    except BaseException as thrown:  # noqa: BLE001 - handed to the generator, as `yield from` does
                        step = functools.partial(inner.throw, thrown)
            finally:
                line.end()

        return wrapped

    def _around_async_generator(
        self, function: Callable[..., AsyncGenerator[Any, Any]]
    ) -> Callable[..., Any]:
        async def wrapped(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            line = _SuspendableStage(self._again())
            inner = function(*args, **kwargs)
            try:
                step: Callable[[], Any] = inner.__anext__
                while True:
                    try:
                        with line:
                            item = await step()
                    except StopAsyncIteration:
                        return
                    try:
                        sent = yield item
                        step = functools.partial(inner.asend, sent)
                    except GeneratorExit:
                        with line:
                            await inner.aclose()
                        raise
                    except BaseException as thrown:  # noqa: BLE001 - handed to the generator
                        step = functools.partial(inner.athrow, thrown)
            finally:
                line.end()

        return wrapped


stage = Stage


class _Entered:
    """A stage that was entered, and the stage that was current before."""

    __slots__ = ("before", "opened")

    def __init__(self) -> None:
        self.before: OpenStage | None = None
        self.opened: OpenStage | None = None

    def leave(self) -> None:
        """Make the former stage current again.

        Not in another context than the stage was entered in (asyncio callbacks, pytest fixtures).
        """
        if self.opened is not None and current.get() is self.opened:
            current.set(self.before)


class _SuspendableStage(contextlib.AbstractContextManager["_SuspendableStage"]):
    """The stage of a generator: open from its first step to its end, charged and current only while it runs."""

    def __init__(self, manager: Stage) -> None:
        self._manager = manager
        self._entered = _Entered()
        self._error: BaseException | None = None

    def __enter__(self) -> _SuspendableStage:
        try:
            contain("resuming a stage", None, self._resume)
            return self
        except BaseException:
            self._suspend()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not isinstance(error, (StopIteration, StopAsyncIteration)):
                self._error = error
            contain("suspending a stage", None, self._suspend)
        except BaseException:
            self._suspend()
            raise

    def close(self, generator: Generator[Any, Any, Any]) -> None:
        """Close the generator; the stage pays for it, but is not made current.

        A collection may close an abandoned generator while the program sets a context variable. Before Python
        3.12, setting another one at that moment crashes the interpreter.
        """
        opened = self._entered.opened
        if opened is not None and opened.engine.alive:
            contain("resuming a stage", None, opened.engine.resume, opened)
        try:
            generator.close()
        except BaseException as error:
            self._error = error
            raise

    def end(self) -> None:
        opened = self._entered.opened
        if opened is not None and opened.engine.alive:
            contain("closing a stage", None, opened.engine.close, opened, self._error)

    def _resume(self) -> None:
        entered = self._entered
        opened = entered.opened
        if opened is None:
            self._manager._begin(entered)
        elif opened.engine.alive:
            opened.engine.resume(opened)
            entered.before = current.get()
            current.set(opened)
            opened.engine.enter(opened)

    def _suspend(self) -> None:
        opened = self._entered.opened
        if opened is not None:
            opened.engine.leave(opened)
            if opened.engine.alive:
                opened.engine.pause(opened)
            self._entered.leave()


def inject(environment: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Put the current stage into the environment of a child process, whose stages then continue its trace.

        client.containers.run(image, environment=carbon_otel.inject({"EPOCHS": "3"}))

    Sets `TRACEPARENT`, `TRACESTATE` and `BAGGAGE` (the run's id and the stage's name) in `environment`, by default
    a new dict, and returns it. Sets nothing if no stage is open. `multiprocessing`, and `subprocess` without
    `env`, do this without a call.
    """
    environment = {} if environment is None else environment
    active = recorder()
    if active is not None:
        contain("passing the trace on", None, active.inject, environment)
    return environment


def covered(kinds: tuple[str, ...]) -> bool:
    """Whether a stage opened here would be inside a stage of one of these kinds in the same run."""
    active = recorder()
    above = active.engine.parent_of(current.get()) if active is not None else None
    while above is not None and above.run is not above:
        if above.info.kind in kinds:
            return True
        above = above.parent
    return False


def _footprint(stage: OpenStage) -> Footprint:
    return stage.engine.so_far(stage).footprint


def _check_kind(kind: Any) -> str:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise ValueError(
            f"stage kind {kind!r}: write one of {', '.join(LIFECYCLE)}, or a name of letters, digits, '_', '.' "
            "and '-' that starts with a letter or '_' and has at most 64 characters"
        )
    if kind in (RUN, UNATTRIBUTED):
        raise ValueError(
            f"stage kind {kind!r} is used by carbon_otel itself; write another, such as 'training'"
        )
    return kind


def _check_name(name: Any) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > 250:
        raise ValueError(f"stage name {name!r}: write 1 to 250 characters, or leave it out to use the kind")
    return name


def _check_amount(unit: str, amount: Any) -> float:
    if isinstance(amount, bool) or not isinstance(amount, numbers.Real):
        raise ValueError(f"{unit}={amount!r}: write a number of {unit}")
    number = float(amount)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"{unit}={amount!r}: write a number of {unit} from 0 up")
    return number


def _check_attribute(key: str, value: Any) -> AttributeValue:
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, numbers.Real):  # numpy's scalars
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    if isinstance(value, (list, tuple)) and (
        not value or any(all(isinstance(item, t) for item in value) for t in (str, bool, int, float))
    ):
        return cast(AttributeValue, tuple(value))
    raise ValueError(
        f"attribute {key}={value!r}: OpenTelemetry takes str, bool, int, float, or a list of one of these; "
        f"write {key}=str(...) or leave it out"
    )
