"""The metrics of processes, as they export them at their end: one measured, and copies of it under other ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

import carbon_otel
from tests.fakes.powercap import DRAM_RANGE_UJ, Tree
from tests.integration.receivers import Receiver, serving


def one_life(folder: Path, stages: int) -> ExportMetricsServiceRequest:
    """What a process with these stages, the last of which counts samples, sends at its end."""
    with serving(Receiver) as sink, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"{sink.url}/v1/metrics")
        patch.setenv("OTEL_SERVICE_NAME", "churn")
        tree = Tree(folder)
        zones = [
            tree.zone("intel-rapl:0", "package-0"),
            tree.zone("intel-rapl:0:0", "dram", DRAM_RANGE_UJ),
        ]

        def draw() -> None:
            time.sleep(0.01)  # slowly enough to be plausible
            for zone in zones:
                zone.add(1)

        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
        for number in range(stages):
            with carbon_otel.stage("training", f"fit_{number}") as stage:
                draw()
                if number == stages - 1:
                    stage.units(samples=1000)
        draw()
        carbon_otel.uninstrument()
        return [r for r in sink._received if isinstance(r, ExportMetricsServiceRequest)][-1]


def copies(life: ExportMetricsServiceRequest, number: int) -> Iterator[bytes]:
    """The same life of other processes."""
    copy = ExportMetricsServiceRequest()
    copy.CopyFrom(life)
    (own,) = [
        attribute
        for resource in copy.resource_metrics
        for attribute in resource.resource.attributes
        if attribute.key == "service.instance.id"
    ]
    for _ in range(number):
        own.value.string_value = str(uuid.uuid4())
        yield copy.SerializeToString()
