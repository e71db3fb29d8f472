"""Stages to spans, payments to counters, ticks to device metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from contextvars import Token
from typing import Any, Final

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from carbon_otel._version import __version__
from carbon_otel.carbon.grid import Intensity
from carbon_otel.footprint import Footprint
from carbon_otel.fork import renew_after_fork
from carbon_otel.meter.meter import Snapshot
from carbon_otel.otel import propagation
from carbon_otel.otel.instruments import instruments_of
from carbon_otel.otel.providers import Providers
from carbon_otel.semconv import names as semconv
from carbon_otel.semconv.attributes import footprint_attributes, stage_attributes
from carbon_otel.sensors.base import Device
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import RUN, OpenStage
from carbon_otel.units import NS_PER_S, S_PER_NS

_RUN_SPAN = "mlflow.run"
# A span is exported when it ends: a long stage shows in between by children of this length.
_PROGRESS_NS: Final = 60 * NS_PER_S


class OtelSink(Sink):
    """One span a stage, current while the stage runs, with the figures of its footprint when it ends.

    A stage opened where the application has no span of its own takes its parent stage's span, or its run's, as
    parent. A run's span is never made current: a run may end in another thread.

    Of the processes of a host one reports the devices: the one for which `reports_devices` is true. `reported`
    notes until when they are, and says until when they had been.
    """

    def __init__(
        self,
        providers: Providers,
        devices: Sequence[Device],
        intensity: Intensity,
        footprint: Callable[[OpenStage], Footprint],
        reports_devices: Callable[[], bool],
        reported: Callable[[int], int],
        steal: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._providers = providers
        self._reports_devices = reports_devices
        self._reported = reported
        # From the start: else one that is forked at once may come first, and it knows nothing of the time before.
        self._waiting = not reports_devices()
        if not self._waiting:
            reported(time.monotonic_ns())
        self._reporting = threading.Lock()  # a flush may tick while the sampler does
        renew_after_fork(self._renew)
        self._footprint = footprint
        self._tracer = trace.get_tracer(semconv.SCOPE, __version__, providers.tracer, semconv.SCHEMA_URL)
        self._instruments = instruments_of(providers.meter)
        self._instruments.attach(intensity, steal)
        self._started_from, self._started_in_run = propagation.read()
        # Devices of one kind and method are one data point of a stage.
        self._groups: dict[tuple[str, str], list[int]] = {}
        for i, device in enumerate(devices):
            self._groups.setdefault((device.type, device.method), []).append(i)
        self._labels: dict[tuple[str, str], tuple[dict[str, str], list[dict[str, str]]]] = {}

    def _renew(self) -> None:
        """In a forked child: the thread that held the lock does not exist there."""
        self._reporting = threading.Lock()

    def opened(self, stage: OpenStage) -> None:
        if self._providers.silent():
            return
        attributes: dict[str, Any] = stage_attributes(stage)
        if stage.run is not None and stage.run.run_id:
            attributes[semconv.RUN_ID] = stage.run.run_id
        elif self._started_in_run:
            attributes[semconv.RUN_ID] = self._started_in_run
        span = self._tracer.start_span(
            _RUN_SPAN if stage.kind == RUN else stage.name,
            context=self._context_below(stage.parent),
            attributes=attributes,
            start_time=stage.start_unix_ns,
        )
        if span.get_span_context().is_valid:
            stage.marks[self] = _Mark(span)

    def entered(self, stage: OpenStage) -> None:
        mark = stage.marks.get(self)
        if mark is not None:
            mark.token = context.attach(trace.set_span_in_context(mark.span))

    def left(self, stage: OpenStage) -> None:
        mark = stage.marks.get(self)
        if mark is not None and mark.token is not None:
            context.detach(mark.token)
            mark.token = None

    def paid(self, stage: OpenStage, joules: Sequence[float], grams: float) -> None:
        mark = stage.marks.get(self)
        if mark is None and not self._providers.listened:
            return
        # With the stage's span current, exemplars link to it and Logfire rolls the sums up.
        token = context.attach(trace.set_span_in_context(mark.span)) if mark is not None else None
        try:
            labels, by_group = self._labels_of(stage)
            for indexes, group_labels in zip(self._groups.values(), by_group, strict=True):
                amount = sum(joules[i] for i in indexes)
                if amount > 0:
                    self._instruments.energy.add(amount, group_labels)
            if grams > 0:
                self._instruments.emissions.add(grams, labels)
            if mark is not None and stage.open:
                self._show_progress(stage, mark)
        finally:
            if token is not None:
                context.detach(token)

    def closed(self, stage: OpenStage, error: BaseException | None) -> None:
        mark = stage.marks.get(self)
        if mark is None and not self._providers.listened:
            return
        labels, _ = self._labels_of(stage)
        for unit, amount in stage.units.items():
            self._instruments.units.add(amount, {**labels, semconv.UNIT: unit})
        if mark is None:
            self._instruments.duration.record(stage.duration_s, labels)
            return
        span: Span = mark.span
        self._instruments.duration.record(stage.duration_s, labels, context=trace.set_span_in_context(span))
        if span.is_recording():
            footprint = self._footprint(stage)
            span.set_attributes(footprint_attributes(footprint))
            if type(span).__module__.startswith("logfire"):
                span.set_attribute("logfire.msg", _message(stage, footprint))
            if isinstance(error, Exception):
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        span.end(stage.start_unix_ns + int(stage.duration_s * 1e9))

    def tick(self, snapshot: Snapshot) -> None:
        self._providers.warn_if_too_late()
        self._providers.silent()  # updates `listened`
        with self._reporting:
            if not self._reports_devices():
                self._waiting = True
                return
            now_ns = time.monotonic_ns()
            until_ns = self._reported(now_ns)
            if self._waiting:
                self._waiting = False
                self._instruments.take_over(snapshot, max(0, now_ns - until_ns) * S_PER_NS)
            self._instruments.source.snapshot = snapshot

    def flush(self, timeout_s: float) -> bool:
        return self._providers.flush(timeout_s)

    def close(self, timeout_s: float) -> None:
        self._providers.close(timeout_s)

    def trace_id(self, stage: OpenStage) -> str | None:
        mark = stage.marks.get(self)
        return trace.format_trace_id(mark.span.get_span_context().trace_id) if mark else None

    def inject(self, environment: MutableMapping[str, str], stage: OpenStage | None) -> None:
        """The span that a stage opened here would hang below, into a child's environment."""
        context_here = self._context_below(stage)
        run = stage.run.run_id if stage is not None and stage.run is not None else self._started_in_run
        propagation.write(
            environment, context_here or context.get_current(), run, stage.name if stage else None
        )

    def _context_below(self, above: OpenStage | None) -> Context | None:
        """None where the application's own span, or the stage's, is current."""
        if trace.get_current_span().get_span_context().is_valid:
            return None
        while above is not None:
            mark = above.marks.get(self)
            if mark is not None:
                return trace.set_span_in_context(mark.span)
            above = above.parent
        return self._started_from

    def _show_progress(self, stage: OpenStage, mark: _Mark) -> None:
        """A child span for every minute of an open stage, so that its trace shows it while it runs.

        Events would be seen only with the span, when it ends.
        """
        now_ns = time.time_ns()
        since_ns = mark.shown_ns or stage.start_unix_ns
        if now_ns - since_ns < _PROGRESS_NS:
            return
        mark.shown_ns = now_ns
        joules, grams = stage.engine.spent(stage)
        so_far = {semconv.ENERGY_TOTAL_J: joules, semconv.EMISSIONS_G: grams}
        self._tracer.start_span(
            f"{stage.name} (progress)",
            context=trace.set_span_in_context(mark.span),
            attributes={semconv.STAGE_KIND: stage.kind, semconv.STAGE_NAME: stage.name, **so_far},
            start_time=since_ns,
        ).end(now_ns)

    def _labels_of(self, stage: OpenStage) -> tuple[dict[str, str], list[dict[str, str]]]:
        # The name of a run is made up anew each time: as a label it would grow without bound.
        name = RUN if stage.kind == RUN else stage.name
        found = self._labels.get((stage.kind, name))
        if found is None:
            labels = {semconv.STAGE_KIND: stage.kind, semconv.STAGE_NAME: name}
            groups = [
                {**labels, semconv.COMPONENT: kind, semconv.METHOD: method} for kind, method in self._groups
            ]
            found = self._labels[stage.kind, name] = labels, groups
        return found


class _Mark:
    __slots__ = ("shown_ns", "span", "token")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.token: Token[Context] | None = None
        self.shown_ns = 0


def _message(stage: OpenStage, footprint: Footprint) -> str:
    """What Logfire shows for a span: `training rf: 12.4 Wh, 4.75 g`."""
    title = stage.kind if stage.name == stage.kind else f"{stage.kind} {stage.name}"
    return f"{title}: {footprint.energy_wh:.3g} Wh, {footprint.emissions_g:.3g} g"
