"""Stages to spans, payments to counters, ticks to device metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Token
from typing import Any

from opentelemetry import context, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from carbon_otel._version import __version__
from carbon_otel.carbon.grid import Intensity
from carbon_otel.footprint import Footprint
from carbon_otel.meter.meter import Snapshot
from carbon_otel.otel import conventions as c
from carbon_otel.otel.instruments import instruments_of
from carbon_otel.otel.providers import Providers
from carbon_otel.sensors.base import Device
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import RUN, OpenStage

_RUN_SPAN = "mlflow.run"


class OtelSink(Sink):
    """One span a stage, current while the stage runs, with the figures of its footprint when it ends.

    A stage opened where the application has no span of its own takes its parent stage's span, or its run's, as
    parent. A run's span is never made current: a run may end in another thread. Of the processes of a host one
    reports the devices: the one for which `reports_devices` is true.
    """

    def __init__(
        self,
        providers: Providers,
        devices: Sequence[Device],
        intensity: Intensity,
        footprint: Callable[[OpenStage], Footprint],
        reports_devices: Callable[[], bool],
        steal: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._providers = providers
        self._reports_devices = reports_devices
        self._waiting = False
        self._footprint = footprint
        self._tracer = trace.get_tracer(c.SCOPE, __version__, providers.tracer, c.SCHEMA_URL)
        self._instruments = instruments_of(providers.meter)
        self._instruments.attach(intensity, steal)
        # Devices of one kind and method are one data point of a stage.
        self._groups: dict[tuple[str, str], list[int]] = {}
        for i, device in enumerate(devices):
            self._groups.setdefault((device.type, device.method), []).append(i)
        self._labels: dict[tuple[str, str], tuple[dict[str, str], list[dict[str, str]]]] = {}

    def opened(self, stage: OpenStage) -> None:
        if self._providers.silent():
            return
        attributes: dict[str, Any] = {**stage.attributes, c.STAGE_KIND: stage.kind, c.STAGE_NAME: stage.name}
        if stage.run is not None and stage.run.run_id:
            attributes[c.RUN_ID] = stage.run.run_id
        span = self._tracer.start_span(
            _RUN_SPAN if stage.kind == RUN else stage.name,
            context=self._parent(stage),
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
        if mark is None and self._providers.silent():
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
        finally:
            if token is not None:
                context.detach(token)

    def closed(self, stage: OpenStage, error: BaseException | None) -> None:
        mark = stage.marks.get(self)
        if mark is None and self._providers.silent():
            return
        labels, _ = self._labels_of(stage)
        if mark is None:
            self._instruments.duration.record(stage.duration_s, labels)
            return
        span: Span = mark.span
        self._instruments.duration.record(stage.duration_s, labels, context=trace.set_span_in_context(span))
        if span.is_recording():
            span.set_attributes(_attributes(self._footprint(stage)))
            if isinstance(error, Exception):
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
        span.end(stage.start_unix_ns + int(stage.duration_s * 1e9))

    def tick(self, snapshot: Snapshot) -> None:
        if not self._reports_devices():
            self._waiting = True
            return
        if self._waiting:
            self._waiting = False
            self._instruments.take_over(snapshot)
        self._instruments.source.snapshot = snapshot

    def flush(self, timeout_s: float) -> bool:
        return self._providers.flush(timeout_s)

    def close(self, timeout_s: float) -> None:
        self._providers.close(timeout_s)

    def trace_id(self, stage: OpenStage) -> str | None:
        mark = stage.marks.get(self)
        return trace.format_trace_id(mark.span.get_span_context().trace_id) if mark else None

    def _parent(self, stage: OpenStage) -> Context | None:
        if trace.get_current_span().get_span_context().is_valid:
            return None
        above = stage.parent
        while above is not None:
            mark = above.marks.get(self)
            if mark is not None:
                return trace.set_span_in_context(mark.span)
            above = above.parent
        return None

    def _labels_of(self, stage: OpenStage) -> tuple[dict[str, str], list[dict[str, str]]]:
        # The name of a run is made up anew each time: as a label it would grow without bound.
        name = RUN if stage.kind == RUN else stage.name
        found = self._labels.get((stage.kind, name))
        if found is None:
            labels = {c.STAGE_KIND: stage.kind, c.STAGE_NAME: name}
            groups = [{**labels, c.COMPONENT: kind, c.METHOD: method} for kind, method in self._groups]
            found = self._labels[stage.kind, name] = labels, groups
        return found


class _Mark:
    __slots__ = ("span", "token")

    def __init__(self, span: Span) -> None:
        self.span = span
        self.token: Token[Context] | None = None


def _attributes(footprint: Footprint) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        c.ENERGY_TOTAL_J: footprint.energy_j,
        c.ENERGY_EXCLUSIVE_J: footprint.exclusive_j,
        c.ENERGY_LOW_J: footprint.low_j,
        c.ENERGY_HIGH_J: footprint.high_j,
        c.EMISSIONS_G: footprint.emissions_g,
        c.PUE: footprint.pue,
        c.METHOD: footprint.method,
        c.MEASURED_FRACTION: footprint.measured_fraction,
    }
    for component, joules in footprint.components.items():
        attributes[c.ENERGY_COMPONENT_J.format(component)] = joules
    if footprint.intensity is not None:
        attributes[c.INTENSITY_G_PER_KWH] = footprint.intensity.g_per_kwh
        attributes[c.INTENSITY_SOURCE] = footprint.intensity.source
    for unit, amount in footprint.units.items():
        attributes[c.UNITS.format(unit)] = amount
    for rule, share in footprint.shares.items():
        attributes[c.SHARE.format(rule)] = share
    if footprint.gap_s:
        attributes[c.GAP_S] = footprint.gap_s
    if footprint.flags:
        attributes[c.FLAGS] = footprint.flags
    if footprint.missing:
        attributes[c.MISSING] = footprint.missing
    return attributes
