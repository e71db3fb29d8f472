"""The stage that users open: a context manager, sync and async, and a decorator."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import numbers
import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from contextvars import Token
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Final, Literal, Protocol, TypeVar, cast, get_args

from carbon_otel import runtime
from carbon_otel.footprint import NOT_MEASURED, Footprint
from carbon_otel.guard import contain, log_fault
from carbon_otel.handover import Work
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

    def take_over(self, work: Work) -> None:
        """Join the run of work that another process has handed over, until `work.leave()`."""

    def no_span(self) -> AbstractContextManager[object]:
        """Within it, no span of the application or of a stage is current."""


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

    __slots__ = ("_attributes", "_entered", "_kind", "_last", "_name", "_recorder", "_units")

    def __init__(
        self,
        kind: Lifecycle | str,
        name: str | None = None,
        *,
        attributes: Mapping[str, Any] = MappingProxyType({}),
        **more: Any,
    ) -> None:
        self._kind = _check_kind(kind)
        self._name = kind if name is None else _check_name(name)
        self._attributes = {k: _check_attribute(k, v) for k, v in {**attributes, **more}.items()}
        self._units: dict[str, float] = {}
        self._entered: list[tuple[OpenStage, Token[OpenStage | None]] | None] = []
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
        # Not `contain`, here and below, because it takes a tenth of a microsecond.
        entered = None
        try:
            entered = self._begin()
        except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
            log_fault("opening a stage", fault)
        self._entered.append(entered)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = self._entered.pop() if self._entered else None
        if entered is not None:
            try:
                self._end(*entered, error)
            except Exception as fault:  # noqa: BLE001 - as above
                log_fault("closing a stage", fault)

    async def __aenter__(self) -> Stage:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

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

    def _begin(self) -> tuple[OpenStage, Token[OpenStage | None]] | None:
        active = recorder()
        if active is None:
            return None
        active.synchronize()
        opened = active.engine.open(self._kind, self._name, self._attributes, current.get())
        if self._units:
            opened.units.update(self._units)
        self._recorder, self._last = active, opened
        token = current.set(opened)
        active.engine.enter(opened)
        return opened, token

    def _end(self, opened: OpenStage, token: Token[OpenStage | None], error: BaseException | None) -> None:
        engine = opened.engine
        self._last = opened
        # In a child forked inside the block the stage is the parent's: the child leaves it, but does not end it.
        try:
            if engine.alive and self._recorder is not None:
                self._recorder.synchronize()
        finally:  # KeyboardInterrupt ends the wait for the accelerator, and the stage ends all the same
            engine.leave(opened)
            if engine.alive:
                engine.close(opened, error)
            _reset(token)

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


class _SuspendableStage(contextlib.AbstractContextManager["_SuspendableStage"]):
    """The stage of a generator: open from its first step to its end, charged and current only while it runs."""

    def __init__(self, manager: Stage) -> None:
        self._manager = manager
        self._opened: OpenStage | None = None
        self._token: Token[OpenStage | None] | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> _SuspendableStage:
        contain("resuming a stage", None, self._resume)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, (StopIteration, StopAsyncIteration)):
            self._error = error
        contain("suspending a stage", None, self._suspend)

    def close(self, generator: Generator[Any, Any, Any]) -> None:
        """Close the generator; the stage pays for it, but is not made current.

        A collection may close an abandoned generator while the program sets a context variable. Before Python
        3.12, setting another one at that moment crashes the interpreter.
        """
        opened = self._opened
        if opened is not None and opened.engine.alive:
            contain("resuming a stage", None, opened.engine.resume, opened)
        try:
            generator.close()
        except BaseException as error:
            self._error = error
            raise

    def end(self) -> None:
        opened = self._opened
        if opened is not None and opened.engine.alive:
            contain("closing a stage", None, opened.engine.close, opened, self._error)

    def _resume(self) -> None:
        if self._opened is None:
            begun = self._manager._begin()
            if begun is not None:
                self._opened, self._token = begun
        elif self._opened.engine.alive:
            self._opened.engine.resume(self._opened)
            self._token = current.set(self._opened)
            self._opened.engine.enter(self._opened)

    def _suspend(self) -> None:
        opened, token = self._opened, self._token
        if opened is not None:
            opened.engine.leave(opened)
            if opened.engine.alive:
                opened.engine.pause(opened)
        if token is not None:
            _reset(token)
            self._token = None


def inject(environment: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Put the current stage into the environment of a child process, whose stages then continue its trace.

        client.containers.run(image, environment=carbon_otel.inject({"EPOCHS": "3"}))

    Sets `TRACEPARENT`, `TRACESTATE`, `BAGGAGE` (the run's id and the stage's name) and `CARBON_OTEL_PARENT_RUN` in
    `environment`, by default a new dict, and returns it. Sets nothing if no stage is open. `multiprocessing`, and
    `subprocess` without `env`, do this without a call.
    """
    environment = {} if environment is None else environment
    active = cast("Recorder | None", runtime.begun_or_inherited())
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


def _reset(token: Token[OpenStage | None]) -> None:
    # A stage may be left in a different context than it was entered in (asyncio callbacks, pytest fixtures).
    with contextlib.suppress(ValueError, RuntimeError):
        current.reset(token)


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
