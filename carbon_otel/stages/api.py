"""The stage that users open: a context manager, sync and async, and a decorator."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import replace
from types import MappingProxyType, TracebackType
from typing import Any, Final, Protocol, TypeVar, cast

from carbon_otel import runtime
from carbon_otel.footprint import NOT_MEASURED, Footprint
from carbon_otel.guard import contain, log_fault, undone
from carbon_otel.handover import Work
from carbon_otel.records import AttributeValue
from carbon_otel.stages import arguments
from carbon_otel.stages.arguments import Lifecycle
from carbon_otel.stages.callables import measured
from carbon_otel.stages.engine import Engine
from carbon_otel.stages.open_stage import NOBODY, OpenStage, current
from carbon_otel.stages.suspendable import Entered, SuspendableStage

F = TypeVar("F", bound=Callable[..., Any])

# The kind of a stage that could not be made at the recursion limit, and opens nothing.
_NO_STAGE: Final = ""
_NO_ATTRIBUTES: Final[Mapping[str, AttributeValue]] = MappingProxyType({})


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
        attributes: put on the span as they are: str (of 8192 characters at most, longer ones are cut), bool, int,
            float, or lists of one of these (1024 items at most). Attributes with plain names may also be given as
            keywords. Keys that begin with `carbon_otel.`, `hw.`, `logfire.` or `mlflow.` are reserved.

    Raises:
        ValueError: for a kind, name or attribute that OpenTelemetry or MLflow would not accept.

    Nested, concurrent and asynchronous stages may be open at once; the innermost ones get the energy. A decorated
    function or method opens a new stage at each call. If the call returns a coroutine, a generator, a lazy
    iterator such as `map`, a task or a future, the stage ends with that. Write the decorator directly above the
    function, below those of other libraries. Before `carbon_otel.instrument()` a stage does nothing, and its
    footprint is marked as not measured.
    """

    __slots__ = (
        "__weakref__",
        "_admits",
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
        /,
        kind: Lifecycle | str,
        name: str | None = None,
        *,
        attributes: Mapping[str, Any] = MappingProxyType({}),
        **more: Any,
    ) -> None:
        self._admits: Collection[str] | None = None
        self._entered: list[Entered] = []
        self._units: dict[str, float] = {}
        self._last: OpenStage | None = None
        self._recorder: Recorder | None = None
        self._kind = self._name = _NO_STAGE
        self._attributes: Mapping[str, AttributeValue] = _NO_ATTRIBUTES
        try:
            checked = arguments.kind_of(kind)
            if checked in arguments.MEANT:
                arguments.hint_at(checked)
            self._name = kind if name is None else arguments.name_of(name)
            self._attributes = arguments.attributes_of(attributes, more)
            self._kind = checked
        except RecursionError:
            undone["a stage"] = True

    def units(self, /, **units: float) -> Stage:
        """Set functional units, such as `samples=10_000`, `tokens=…`, `epochs=…`.

        The footprint then has joules and grams per unit. Raises ValueError for a negative or infinite number.
        """
        for unit, amount in units.items():
            self._units[arguments.unit_of(unit)] = arguments.amount_of(unit, amount)
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
        units = {**self._last.counted.total(), **self._units}
        return replace(footprint, units=units) if footprint.units != units else footprint

    def __repr__(self) -> str:
        from carbon_otel.footprint.shown import summary
        from carbon_otel.quantities import duration

        words = [repr(self._kind)] + ([repr(self._name)] if self._name != self._kind else [])
        last = self._last
        if last is None:
            state = "not begun" if recorder() is not None else summary(NOT_MEASURED)
            return f"Stage({', '.join(words)}, {state})"
        if last.open:  # its figures would need the sensors
            return f"Stage({', '.join(words)}, open for {duration(last.age_s)})"
        return f"Stage({', '.join(words)}, {summary(self.footprint)})"

    def _repr_html_(self) -> str:
        """The footprint of the stage for a notebook; so far while it is open."""
        from carbon_otel.footprint.shown import html_of

        kind = self._kind.replace("_", " ")
        title = kind if self._name == self._kind else f"{kind}: {self._name}"
        is_open = self._last is not None and self._last.open
        return html_of(self.footprint, f"{title} (still open)" if is_open else title)

    def __enter__(self) -> Stage:
        depth = 0
        try:
            depth = len(self._entered)
            entered = Entered()
            self._entered.append(entered)
            # Not `contain`, here and below, because it takes a tenth of a microsecond.
            try:
                self._begin(entered)
            except RecursionError:
                raise
            except Exception as fault:  # noqa: BLE001 - no internal fault may reach the user's program
                log_fault("opening a stage", fault)
            return self
        except RecursionError:  # no call is possible here, as in the other places that handle it
            undone["a stage"] = True
            return self
        except BaseException:  # Python does not call `__exit__` then
            self._end_from(depth)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        entered = None
        try:
            entered = self._last_here()
            if entered is not None:
                try:
                    self._end(entered, error)
                except RecursionError:
                    raise
                except Exception as fault:  # noqa: BLE001 - as above
                    log_fault("closing a stage", fault)
                self._entered.remove(entered)
        except RecursionError:
            undone["the end of a stage"] = True
            if self._entered:
                opened = self._entered[-1].opened
                del self._entered[-1]
                if opened is not None:
                    opened.owner = NOBODY
        except BaseException:
            if entered is None:
                self._end_from(len(self._entered) - 1, error)
            else:
                self._end(entered, error)
                if entered in self._entered:
                    self._entered.remove(entered)
            raise

    async def __aenter__(self) -> Stage:
        depth = 0
        try:
            depth = len(self._entered)
            return self.__enter__()
        except RecursionError:
            undone["a stage"] = True
            return self
        except BaseException:
            self._end_from(depth)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        depth = 0
        try:
            depth = len(self._entered) - 1
            self.__exit__(kind, error, trace)
        except RecursionError:
            undone["the end of a stage"] = True
            if self._entered:
                opened = self._entered[-1].opened
                del self._entered[-1]
                if opened is not None:
                    opened.owner = NOBODY
        except BaseException:
            self._end_from(depth, error)
            raise

    def __call__(self, function: F) -> F:
        return cast(F, measured(function, self._again, stream_of))

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is a new stage, which has not begun: the measurement belongs to this process."""
        return _new, (self._kind, self._name, self._attributes, self._units)

    def _again(self) -> Stage:
        return _new(self._kind, self._name, self._attributes, {})

    def _last_here(self) -> Entered | None:
        """What was entered last; in this context, if threads or tasks share this object."""
        all_entered = self._entered
        if len(all_entered) > 1:
            here = current.get()
            for entered in reversed(tuple(all_entered)):
                if entered.opened is here:
                    return entered
        return all_entered[-1] if all_entered else None

    def _begin(self, entered: Entered) -> None:
        active = recorder()
        if active is None or not self._kind:
            return
        active.synchronize()
        engine, before = active.engine, current.get()
        while before is not None and not before.open:  # an exception has kept it from being left
            before = before.parent
        opened = engine.prepare(self._kind, self._name, self._attributes, before)
        if self._units:
            opened.units.update(self._units)
        opened.admits = self._admits
        # If an exception arrives just before the first line of `__exit__`, only the end of this object shows it.
        opened.owner = weakref.ref(self, engine.abandoned)
        entered.before, entered.opened = before, opened
        engine.begin(opened)
        self._recorder, self._last = active, opened
        current.set(opened)
        engine.sinks.stage_entered(opened.info)

    def _end(self, entered: Entered, error: BaseException | None) -> None:
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
            engine.sinks.stage_left(opened.info)
            if engine.alive:
                engine.close(opened, error)
            entered.leave()

    def _end_from(self, depth: int, error: BaseException | None = None) -> None:
        """End what was entered beyond this depth, after an exception in the midst of it."""
        while len(self._entered) > max(0, depth):
            self._end(self._entered[-1], error)
            self._entered.pop()


stage = Stage


def automatic(kind: Lifecycle, name: str, admits: Collection[str] = ()) -> Stage:
    """The stage of a call that a library makes; automatic stages of the kinds in `admits` may open in it."""
    fresh = _new(kind, name[: arguments.LONGEST_NAME], {}, {})
    fresh._admits = admits
    return fresh


def _new(kind: str, name: str, attributes: Mapping[str, AttributeValue], units: Mapping[str, float]) -> Stage:
    """A stage of words that were checked before."""
    fresh = Stage.__new__(Stage)
    fresh._kind, fresh._name, fresh._attributes, fresh._units = kind, name, attributes, dict(units)
    fresh._admits = None
    fresh._entered, fresh._last, fresh._recorder = [], None, None
    return fresh


def stream_of(call: Stage) -> SuspendableStage:
    """The stage of a stream: the open stage of the call, which is suspended now, or one that opens later."""
    line = SuspendableStage(call._begin)
    if call._entered:
        # Taken out of the call, which then leaves no stage.
        line.entered, call._entered[-1] = call._entered[-1], Entered()
        contain("suspending a stage", None, line.suspend)
    return line


def inject(environment: MutableMapping[str, str] | None = None) -> MutableMapping[str, str]:
    """Put the current stage into the environment of a child process, whose stages then continue its trace.

        client.containers.run(image, environment=carbon_otel.inject({"EPOCHS": "3"}))

    Sets `TRACEPARENT`, `TRACESTATE`, `BAGGAGE` (the run's id and the stage's name) and `CARBON_OTEL_PARENT_RUN` in
    `environment`, by default a new dict, and returns it. Sets nothing if no stage is open. `multiprocessing`, and
    `subprocess` without `env`, do this without a call.
    """
    environment = {} if environment is None else environment
    active = cast("Recorder | None", runtime.begun_or_origin())
    if active is not None:
        contain("passing the trace on", None, active.inject, environment)
    return environment


def _footprint(stage: OpenStage) -> Footprint:
    return stage.engine.so_far(stage).footprint
