"""A process that serves tokens on a fake package and is scraped. Argument: the port.

Prints as JSON its joules, and the joules of inference per token.
"""

import json
import sys
import time

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import start_http_server

import carbon_otel
from carbon_otel.otel.instruments import instruments_of

start_http_server(int(sys.argv[1]), "127.0.0.1")
provider = MeterProvider([PrometheusMetricReader()])
carbon_otel.instrument(zone="FR", interval_s=0.2, meter_provider=provider)
end = time.monotonic() + 8
tokens, inference_j = 0, 0.0
while time.monotonic() < end:
    with carbon_otel.stage("training"):
        time.sleep(0.1)
    with carbon_otel.stage("inference", "chat") as s:
        time.sleep(0.1)
        s.units(tokens=50)
    tokens += 50
    inference_j += s.footprint.energy_j
carbon_otel.uninstrument()
devices = instruments_of(provider).source.snapshot.devices
joules = sum(joules for _, joules, _ in devices)
print(json.dumps({"joules": joules, "joules_per_token": inference_j / tokens}), flush=True)
sys.stdin.readline()
