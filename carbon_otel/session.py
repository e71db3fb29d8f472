"""The measurement itself: sensors, meter, stages, carbon and sinks wired together."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

from carbon_otel import instrumentation
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.footprint import Footprint, footprint_of
from carbon_otel.guard import contain, logger, warn_once
from carbon_otel.host.attribution import Attribution
from carbon_otel.host.cgroup import reservation
from carbon_otel.host.identity import identity
from carbon_otel.host.membership import Membership
from carbon_otel.instrumentation import cuda_sync
from carbon_otel.instrumentation.import_hook import ImportHook
from carbon_otel.journal import Journal
from carbon_otel.meter.meter import Meter
from carbon_otel.meter.sampler import Sampler
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.runs import tracking_hook
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.standalone import pyfunc_hook
from carbon_otel.mlflow.standalone.inference import Serving
from carbon_otel.mlflow.standalone.stages import StandaloneStages
from carbon_otel.mlflow.traces import MlflowTraces
from carbon_otel.otel import cpu_steal, instruments
from carbon_otel.otel.providers import Providers
from carbon_otel.otel.resource import described
from carbon_otel.otel.sink import OtelSink
from carbon_otel.runtime import Options
from carbon_otel.sensors.base import Sensor
from carbon_otel.sensors.discovery import Discovery, discover
from carbon_otel.sensors.proc_stat import BusyTime
from carbon_otel.sinks import Sink
from carbon_otel.stages.engine import Engine, OpenStage, current

# Everything that leaves at exit, together: DESIGN's bound on added exit time, with some of it kept in hand.
EXIT_BUDGET_S: Final = 4.5


class Session:
    """A running measurement. In a forked child it takes over the parent's `hook`, whose patches are there."""

    def __init__(self, options: Options, hook: ImportHook | None = None) -> None:
        settings = options.settings
        self.options = options
        self.settings = settings
        self.factor = EmissionFactor(intensity(settings.zone), settings.pue)
        self.discovery: Discovery = discover(settings.powercap_root, settings.cpu_family)
        self.peers = Membership(str(settings.powercap_root or ""))
        self._busy_time = BusyTime()
        self._shares = self._attribution()
        self.meter = Meter(self.discovery.sensors, rule=self._shares, on_fault=_warn_of_fault)
        self.engine = Engine(self.meter, self.factor.emissions_g)
        self.providers = Providers.choose(
            options.tracer_provider, options.meter_provider, described(self.discovery, self.factor)
        )
        self._annotator = self._annotate_spans() if settings.annotate_spans and hook is None else None
        self.otel = OtelSink(
            self.providers,
            self.engine.devices,
            self.factor.intensity,
            self.footprint,
            self.peers.holds_device_book,
            self.peers.exchange_reported_until,
            cpu_steal.Steal().share,
        )
        self._process = identity()
        self.writer = DeliveryWorker(settings.state_dir / "mlflow")
        self.mlflow = RunRecorder(
            self.engine,
            self.footprint,
            self._run_tags,
            self.writer,
            checkpoint_s=settings.checkpoint_interval,
            process=self._process,
            efficiency_metric=settings.efficiency_metric,
        )
        self.serving = Serving(
            self.engine,
            self.footprint,
            self._run_tags,
            self.writer,
            checkpoint_s=settings.checkpoint_interval,
            process=self._process,
        )
        # They are flushed and closed from the last to the first: what the bridge puts is the writer's to send.
        sinks: list[Sink] = [self.otel, self.writer, self.mlflow, self.serving]
        if settings.lineage:
            sinks.append(
                StandaloneStages(
                    self.footprint,
                    self._run_tags,
                    self.writer,
                    checkpoint_s=settings.checkpoint_interval,
                    process=self._process,
                    served=self.serving,
                )
            )
        if settings.mlflow_traces:
            sinks.append(MlflowTraces(self.footprint))
        if settings.journal and hook is None:  # the file is the process's that was told to write it
            sinks.append(Journal(settings.journal, settings.checkpoint_interval, self.totals))
        self.engine.sinks = sinks
        self.sampler = Sampler(self.engine.tick, settings.interval, self._prepare)
        self._inherited = hook is not None
        self.hook = hook or ImportHook()

    def _attribution(self) -> Attribution:
        return Attribution(
            self.settings.attribution,
            [sensor.device for sensor in self.discovery.sensors],
            reservation(os.cpu_count() or 1),
            self.peers,
            self._busy_time,
            time.monotonic_ns(),
            self.discovery.utilisation,
        )

    def _run_tags(self, footprint: Footprint, status: str, stage: OpenStage) -> dict[str, str]:
        return names.tags(
            footprint,
            status=status,
            hardware=self.discovery.hardware,
            attribution=self.settings.attribution,
            trace_id=self.otel.trace_id(stage),
            trace_url=self.settings.trace_url,
            lineage=self.settings.lineage,
            process=self._process,
        )

    def begin(
        self,
        run_events: Callable[[], tracking_hook.RunEvents | None],
        serving: Callable[[], Serving | None],
    ) -> None:
        """Start to tick, watch for runs, instrument the frameworks; say what the figures will lack."""
        self.sampler.start()
        if not self._inherited:
            tracking_hook.install(self.hook, run_events)
            pyfunc_hook.install(self.hook, serving)
            instrumentation.install(self.hook)
            _warn_of_gaps(self)

    def _annotate_spans(self) -> Any:
        from carbon_otel.otel.span_annotator import SpanAnnotator

        annotator = SpanAnnotator(self.engine.cached_joules)
        if not self.providers.annotate(annotator):
            logger.warning(
                "annotate_spans: the application has no tracer provider of the OpenTelemetry SDK yet; set it "
                "before instrument()"
            )
        return annotator

    def inject(self, environment: MutableMapping[str, str]) -> None:
        """The stage or run open here, into a child's environment."""
        self.otel.inject(environment, self.engine.parent_of(current.get()))

    def _prepare(self) -> None:
        """Let the sensors learn their update periods: half a second of reading, so not on the user's thread."""
        self.discovery.prepare()
        self.engine.renew_periods()

    def end(self) -> None:
        """Close what is open and send what is pending, within the exit budget."""
        deadline = time.monotonic() + EXIT_BUDGET_S
        self.hook.remove()
        if self._annotator is not None:
            self._annotator.shutdown()
        self.sampler.stop(timeout_s=1.0)
        contain("closing the open stages", self.engine.close_all, None)
        contain("leaving the split", self._shares.leave, None)
        # Before the sinks are closed, which may take seconds: the devices are another's to report from now on.
        contain("leaving the other processes", self.peers.leave, None)
        self.engine.alive = False
        for sink in reversed(self.engine.sinks):
            left_s = max(0.0, deadline - time.monotonic())
            contain(f"closing {type(sink).__name__}", sink.close, None, left_s)
        for release in (self.discovery.close, self._busy_time.close):
            contain("releasing the sensors", release, None)

    def abandon(self) -> None:
        """In a forked child: the stages, the locks and the devices are the parent's."""
        self.engine.abandon()
        self._shares.abandon()
        self.peers.leave()
        instruments.forget_all()

    def footprint(self, stage: OpenStage) -> Footprint:
        record = self.engine.so_far(stage) if stage.open else stage.record
        return footprint_of(record, self.factor, self.discovery.missing)

    def totals(self) -> Footprint:
        """The process so far."""
        return footprint_of(self.engine.so_far(), self.factor, self.discovery.missing)

    def flush(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        contain("reading the sensors", self.engine.tick, None)
        sent = [
            contain(
                f"flushing {type(sink).__name__}", sink.flush, False, max(0.0, deadline - time.monotonic())
            )
            for sink in reversed(self.engine.sinks)
        ]
        return all(sent)

    def synchronize(self) -> None:
        if self.settings.synchronize:
            contain("synchronising the accelerator", cuda_sync.synchronize, None)


def _warn_of_fault(sensor: Sensor, message: str) -> None:
    warn_once(
        f"read:{sensor.device.id}",
        f"{sensor.device.name} could not be read ({message}); the gap is filled with its last power and "
        "counted in gap_s",
    )


def _warn_of_gaps(session: Session) -> None:
    if session.settings.zone is None:
        place = session.factor.intensity
        logger.warning(
            "no zone set: emissions use the world average of %.0f g/kWh (%s), which may be off by 100 %%; "
            "set instrument(zone='FR') or CARBON_OTEL_ZONE to your country",
            place.g_per_kwh,
            place.source,
        )
    for finding in session.discovery.findings:
        if finding.unmetered:
            logger.warning(
                "%s is not in the figures: %s (%s); `carbon-otel doctor` shows the fix",
                finding.component,
                finding.found,
                finding.reason,
            )
