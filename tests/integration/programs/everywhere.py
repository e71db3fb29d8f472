"""One run with every exporter at once: OTLP over http and grpc, Prometheus, Logfire's test exporter.

Arguments: the http endpoint, the grpc endpoint, the port to be scraped at. Prints the figures as JSON.
"""

import json
import sys
import urllib.request

import logfire
from logfire.testing import TestExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetrics
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpans
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetrics
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpans
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from prometheus_client import start_http_server

import carbon_otel

http, grpc, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
kept = TestExporter()
logfire.configure(
    send_to_logfire=False,
    console=False,
    additional_span_processors=[
        BatchSpanProcessor(HttpSpans(f"{http}/v1/traces")),
        BatchSpanProcessor(GrpcSpans(grpc, insecure=True)),
        SimpleSpanProcessor(kept),
    ],
    metrics=logfire.MetricsOptions(
        additional_readers=[
            PeriodicExportingMetricReader(HttpMetrics(f"{http}/v1/metrics"), 200),
            PeriodicExportingMetricReader(GrpcMetrics(grpc, insecure=True), 200),
            PrometheusMetricReader(),
        ],
        collect_in_spans=True,
        views=(),  # Logfire's own make exponential histograms, which the exporter for Prometheus cannot translate
    ),
)
start_http_server(port, "127.0.0.1")
carbon_otel.instrument(zone="FR", interval_s=0.1)
with carbon_otel.stage("training", "fit") as outer:
    sum(i * i for i in range(3_000_000))
    with carbon_otel.stage("evaluation", "score") as inner:
        sum(i * i for i in range(1_000_000))
carbon_otel.uninstrument()
logfire.force_flush()
spans = {s["name"]: s["attributes"] for s in kept.exported_spans_as_dict()}
scraped = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
print(
    json.dumps(
        {
            "truth": {"fit": outer.footprint.energy_j, "score": inner.footprint.energy_j},
            "exclusive": {"fit": outer.footprint.exclusive_j, "score": inner.footprint.exclusive_j},
            "logfire": {name: spans[name]["carbon_otel.energy.total_j"] for name in ("fit", "score")},
            "rolled_up": json.loads(spans["fit"]["logfire.metrics"])["carbon_otel.stage.energy"]["total"],
            "scraped": scraped,
        }
    )
)
