"""Stages to spans, attributed energy to counters, ticks to device metrics."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from carbon_otel import clock
from carbon_otel._version import __version__
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.handover import Work, present
from carbon_otel.otel import propagation
from carbon_otel.otel.early_exports import EarlyExports
from carbon_otel.otel.ids import own_ids
from carbon_otel.otel.instruments import instruments_of
from carbon_otel.otel.labels import LabelBook
from carbon_otel.otel.providers import Providers
from carbon_otel.otel.remote_sums import RemoteSums
from carbon_otel.quantities import emissions, energy
from carbon_otel.ranks import group
from carbon_otel.records import Foresight, RemoteCall, StageInfo
from carbon_otel.semconv import names as semconv
from carbon_otel.semconv.attributes import (
    footprint_attributes,
    foresight_attributes,
    rank_attributes,
    stage_attributes,
)
from carbon_otel.sensors.base import Device
from carbon_otel.sinks import Pending, Sink, StageEnd, Tick
from carbon_otel.text import hider
from carbon_otel.units import NS_PER_S, S_PER_NS

_RUN_SPAN = "mlflow.run"
# A span is exported at its end. Child spans of this length show a long stage while it runs.
_PROGRESS_NS: Final = 60 * NS_PER_S
# While more stages are open, none shows its progress: a tick would make thousands of spans.
_MOST_SHOWN: Final = 200


class OtelSink(Sink):
    """One span per stage, which is current while the stage runs and gets the footprint at its end.

    If the application has no current span, the parent of a stage's span is the span of its parent stage or of its
    run. A run's span is never made current, because a run may end in another thread.

    Exactly one process per host exports device metrics: the one for which `reports_devices` is true.
    `exchange_reported_until` records the time up to which they are exported, and returns the mark of the previous
    exporter.
    """

    def __init__(
        self,
        providers: Providers,
        devices: Sequence[Device],
        factor: EmissionFactor,
        boot: str,
        reports_devices: Callable[[], bool],
        exchange_reported_until: Callable[[int], int],
        steal: Callable[[], float | None] = lambda: None,
        origin: Work | None = None,
    ) -> None:
        """`origin` is the work for which this process was started; by default its environment says."""
        self._providers = providers
        self._reports_devices = reports_devices
        self._exchange_reported_until = exchange_reported_until
        # Created now, because a child that is forked at once has no data about the time before.
        self._waiting = not reports_devices()
        if not self._waiting:
            exchange_reported_until(clock.monotonic_ns())
        self._reporting = threading.RLock()  # a flush may tick while the sampler does
        renew_after_fork(self._renew)
        self._tracer = self._tracer_of_providers()
        self.instruments = instruments_of(providers.meter)
        self.instruments.attach(factor, boot, steal)
        self._origin = self._started_for = Work(os.environ) if origin is None else origin
        # The last work for which a stage was opened, with what its variables say; and the last variables made.
        self._read = self._origin, propagation.read(self._origin.variables)
        self._made: tuple[Any, Mapping[str, str]] = (None, {})
        self._spans: dict[StageInfo, _StageSpan] = {}
        self.labels = LabelBook(devices, self.instruments.apart)
        self._early = EarlyExports(providers.send_metrics)
        self._remote = RemoteSums(self.instruments)

    def _tracer_of_providers(self) -> trace.Tracer:
        tracer = trace.get_tracer(semconv.SCOPE, __version__, self._providers.tracer, semconv.SCHEMA_URL)
        own_ids(tracer)
        return tracer

    def follow_providers(self, open_stages: Sequence[StageInfo]) -> None:
        """The providers have changed. Spans that are open end where they began; other open stages get one now."""
        self._tracer, former = self._tracer_of_providers(), self.instruments
        with self._reporting:
            self.instruments = instruments_of(self._providers.meter)
            if self.instruments is not former:
                self.instruments.follow(former)
                self.labels.begin_again(self.instruments.apart)
                self._remote.follow(self.instruments)
        for stage in open_stages:
            if stage not in self._spans:
                self.stage_opened(stage)

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._reporting = threading.RLock()

    def stage_opened(self, stage: StageInfo) -> None:
        if self._providers.silent():
            return
        attributes: dict[str, Any] = stage_attributes(stage)
        if stage.joined:
            return  # the process that opened the run has its span
        run_id = stage.known_run_id or self._started_from()[1]
        if run_id:
            attributes[semconv.RUN_ID] = run_id
        if group.rank is not None:
            attributes |= rank_attributes(group.rank)
        span = self._tracer.start_span(
            _RUN_SPAN if stage.is_run else stage.name,
            context=self._context_below(stage.parent),
            attributes=attributes,
            start_time=stage.start_unix_ns,
        )
        if span.get_span_context().is_valid:
            self._spans[stage] = _StageSpan(span)

    def stage_entered(self, stage: StageInfo) -> None:
        own = self._spans.get(stage)
        if own is not None:
            own.before = context.get_current()
            own.context = _StageContext(trace.set_span_in_context(own.span, own.before))
            context.attach(own.context)

    def stage_left(self, stage: StageInfo) -> None:
        own = self._spans.get(stage)
        if own is not None and own.before is not None:
            _leave(own.context, own.before)
            own.before = None

    def energy_attributed(
        self, stage: StageInfo, joules: Sequence[float], grams: float, embodied_g: float
    ) -> None:
        own = self._spans.get(stage)
        if own is None and not self._providers.listened:
            return
        labels = self.labels.of(stage)
        # With the stage's span in the context, exemplars link to the span and Logfire adds the sums up.
        here = own.around() if own is not None else None
        for indexes, group_labels in zip(self.labels.groups.values(), labels.groups, strict=True):
            amount = sum([joules[i] for i in indexes])
            if amount > 0:
                self.instruments.stage_energy.add(amount, group_labels, here)
        if grams > 0:
            self.instruments.emissions.add(grams, labels.stage, here)
        if own is not None:
            own.joules += sum(joules)
            own.grams += grams

    def stage_closed(self, stage: StageInfo, end: StageEnd) -> None:
        own = self._spans.pop(stage, None)
        if own is None and not self._providers.listened:
            return
        self._early.stage_ended = True
        labels = self.labels.of(stage)
        # The stage was left before: its span is not current any more.
        here = own.around() if own is not None else None
        for unit, amount in group.summed(end.units).items():
            label = self.labels.unit(unit)
            self.instruments.units.add(amount, {**labels.stage, semconv.UNIT: label}, here)
        if own is None:
            self.instruments.duration.record(end.duration_s, labels.stage)
            return
        span: Span = own.span
        try:
            self.instruments.duration.record(end.duration_s, labels.stage, context=here)
            above = self._spans.get(stage.parent) if stage.parent is not None else None
            if above is not None:
                above.joules_below += own.joules + own.joules_below
                above.grams_below += own.grams + own.grams_below
            estimates = self._remote.of(stage)
            if span.is_recording():
                self._describe(span, stage, end)
                span.set_attributes(estimates)
        finally:
            span.end(stage.start_unix_ns + int(end.duration_s * NS_PER_S))

    def _describe(self, span: Span, stage: StageInfo, end: StageEnd) -> None:
        footprint = end.footprint
        if stage.run_id != stage.known_run_id and (run_id := self._started_from()[1]):
            span.set_attribute(semconv.RUN_ID, run_id)  # it was not known when the stage opened
        span.set_attributes(footprint_attributes(footprint))
        if type(span).__module__.startswith("logfire"):
            span.set_attribute("logfire.msg", _message(stage, footprint))
        if isinstance(end.error, Exception):
            _record(span, end.error)

    def remote_called(self, stage: StageInfo | None, call: RemoteCall) -> None:
        while stage is not None and stage not in self._spans and stage.parent is not None:
            stage = stage.parent  # it has ended
        self._remote.add(stage, stage in self._spans, call)

    def foreseen(self, stage: StageInfo, foresight: Foresight) -> None:
        own = self._spans.get(stage)
        if own is not None and own.span.is_recording():
            own.span.set_attributes(foresight_attributes(foresight))

    def tick(self, tick: Tick) -> None:
        if not self._providers.silent():
            self._providers.warn_if_too_late()
            self._show_progress()
            if self.labels.apart != self.instruments.apart:  # the application has set its provider
                self.labels.begin_again(self.instruments.apart)
        self.instruments.source.embodied_g = tick.embodied_g
        if tick.checkpoint is not None:
            self._early.checkpoint = bool(self._spans)
        with self._reporting:
            if not self._reports_devices():
                self._waiting = True
                return
            now_ns = clock.monotonic_ns()
            until_ns = self._exchange_reported_until(now_ns)
            if self._waiting:
                self._waiting = False
                self.instruments.take_over(tick.devices, max(0, now_ns - until_ns) * S_PER_NS)
            self.instruments.source.snapshot = tick.devices

    def send_soon(self) -> None:
        """After a tick of the sampler: send what a kill of the process must not lose."""
        self._early.send_if_due()

    def place(self) -> str:
        return "" if self._providers.silent() else self._providers.described()

    def flush(self, timeout_s: float) -> Pending:
        return self._providers.flush(timeout_s)

    def close(self, timeout_s: float) -> Pending:
        return self._providers.close(timeout_s)

    def adopt(self, work: Work | None) -> None:
        """From now on this process works for the stage of another one; None takes that back."""
        self._origin = self._started_for if work is None else work

    def trace_id(self, stage: StageInfo) -> str | None:
        """The trace id of an open stage."""
        own = self._spans.get(stage)
        return trace.format_trace_id(own.span.get_span_context().trace_id) if own else None

    def hand_over(self, stage: StageInfo | None, variables: MutableMapping[str, str]) -> None:
        """Add the span that would be the parent of a stage opened here."""
        here = self._context_below(stage) or context.get_current()
        run_id = (stage.known_run_id if stage is not None else None) or self._started_from()[1]
        key = trace.get_current_span(here).get_span_context(), stage, run_id
        before, made = self._made
        # Most tasks of a pool come from one stage.
        if before is None or before[0] is not key[0] or before[1:] != key[1:]:
            fresh: dict[str, str] = {}
            name = stage.name if stage is not None and not stage.joined else None
            propagation.write(fresh, here, run_id, name)
            self._made = key, fresh
            made = fresh
        variables.update(made)

    @contextlib.contextmanager
    def no_span(self) -> Iterator[None]:
        """Within it, no span is current."""
        without = _StageContext(trace.set_span_in_context(trace.INVALID_SPAN))
        before = context.get_current()
        context.attach(without)
        try:
            yield
        finally:
            _leave(without, before)

    def _context_below(self, above: StageInfo | None) -> Context | None:
        """The context whose span is the parent; None if that is the current span.

        Where the span of a stage is current, a run may have begun in that stage: its span is never current.
        """
        here = context.get_current()
        ours = here if isinstance(here, _StageContext) else None
        valid = trace.get_current_span(here).get_span_context().is_valid
        if valid and ours is None:
            return None
        while above is not None:
            own = self._spans.get(above)
            if own is not None:
                return own.around()
            above = above.parent
        return None if valid and ours is not None and ours.before is None else self._started_from()[0]

    def _started_from(self) -> tuple[Context, str | None]:
        """The context, which may be empty, and the run of the work at hand, in the process that handed it over."""
        work = present.get() or self._origin
        known, found = self._read
        if known is not work:
            found = propagation.read(work.variables)
            self._read = work, found
        return found

    def _show_progress(self) -> None:
        """Add a child span for every minute of an open stage, so that its trace shows the stage while it runs.

        Events would be visible only with the span, at its end.
        """
        if len(self._spans) > _MOST_SHOWN:
            return
        now_ns = time.time_ns()
        spans = dict(self._spans)
        due = [stage for stage, own in spans.items() if now_ns - own.since(stage) >= _PROGRESS_NS]
        if not due:
            return
        inclusive = {
            stage: [own.joules + own.joules_below, own.grams + own.grams_below]
            for stage, own in spans.items()
        }
        # A child has a greater id than its parent, so it comes before its parent.
        for stage in sorted(spans, key=lambda each: -each.id):
            if stage.parent in inclusive:
                total = inclusive[stage.parent]
                total[0] += inclusive[stage][0]
                total[1] += inclusive[stage][1]
        for stage in due:
            own = spans[stage]
            since_ns, own.shown_ns = own.since(stage), now_ns
            joules, grams = inclusive[stage]
            self._tracer.start_span(
                f"{stage.name} (progress)",
                context=own.around(),
                attributes={
                    semconv.STAGE_KIND: stage.kind,
                    semconv.STAGE_NAME: stage.name,
                    semconv.ENERGY_TOTAL_J: joules,
                    semconv.EMISSIONS_G: grams,
                },
                start_time=since_ns,
            ).end(now_ns)


class _StageSpan:
    """The span of an open stage, its exclusive joules and grams so far, and those of the stages that ended in it.

    In `context` the span is current; the rest is the context in which the stage was last entered, `before`.
    """

    __slots__ = ("before", "context", "grams", "grams_below", "joules", "joules_below", "shown_ns", "span")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context: Context | None = None
        self.before: Context | None = None
        self.shown_ns = 0
        self.joules = self.joules_below = self.grams = self.grams_below = 0.0

    def around(self) -> Context:
        """The context for work within the stage."""
        if self.context is None:
            self.context = trace.set_span_in_context(self.span)
        return self.context

    def since(self, stage: StageInfo) -> int:
        """The time up to which progress was shown."""
        return self.shown_ns or stage.start_unix_ns


class _StageContext(Context):
    """A context in which the span of a stage is current."""

    # The context to return to, once the stage was left.
    before: Context | None = None


def _leave(entered: Context | None, before: Context) -> None:
    """Make the context current that was so before; nothing where another context is current.

    A stage may be left in another context than it was entered in, or after one that was entered later (streams
    that their server closes, asyncio callbacks, pytest fixtures). OpenTelemetry's `detach` would log an error, or
    make an ended span current.
    """
    while isinstance(before, _StageContext) and before.before is not None:
        before = before.before
    if context.get_current() is entered:
        context.attach(before)
    if isinstance(entered, _StageContext):
        entered.before = before


def _record(span: Span, error: Exception) -> None:
    """Record the exception of a stage; its message may quote an address with a password."""
    trace_text = "".join(traceback.format_exception(error))
    hide = hider()
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - code of the application
        message = "its message cannot be read"
    texts = {"exception.message": hide(message), "exception.stacktrace": hide(trace_text)}
    span.record_exception(error, texts)
    span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {texts['exception.message']}"))


def _message(stage: StageInfo, footprint: Footprint) -> str:
    """The line that Logfire shows for a span: `training rf: 12.4 Wh, 518 mg`."""
    title = stage.kind if stage.name == stage.kind else f"{stage.kind} {stage.name}"
    return f"{title}: {energy(footprint.energy_j)}, {emissions(footprint.emissions_g)}"
