"""A process and its forked child, each with a stage, on a provider of the application. Argument: a folder."""

import os
import sys
import time
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

import carbon_otel
from tests.fakes.powercap import server

resource = Resource.create({"service.instance.id": "one"})
reader = PeriodicExportingMetricReader(OTLPMetricExporter())
metrics.set_meter_provider(MeterProvider([reader], resource=resource))
tree = server(Path(sys.argv[1]))
carbon_otel.instrument(zone="FR", powercap_root=tree.root)


def work(joules: int) -> None:
    package = tree.package[0]
    with carbon_otel.stage("training", "fit"):
        for _ in range(joules):
            time.sleep(0.02)
            package.set(int(package.file.read_text()) / 1e6 + 1)
    carbon_otel.uninstrument()
    metrics.get_meter_provider().force_flush()


child = os.fork()
if child == 0:
    work(80)
    os._exit(0)
os.waitpid(child, 0)
work(40)
