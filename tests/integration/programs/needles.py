"""A run in a store that refuses connections, with addresses that have passwords, and with all logging on."""

from __future__ import annotations

import logging
import sys
import threading

import mlflow
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import carbon_otel

logging.basicConfig(stream=sys.stdout)
logging.getLogger("carbon_otel").setLevel(logging.DEBUG)
store, trace_url, tracking_uri = sys.argv[1:]
refused = threading.Event()


class Refused(logging.Handler):
    """Notes that the store has refused figures."""

    def emit(self, record: logging.LogRecord) -> None:
        if "does not accept the figures" in record.getMessage():
            refused.set()


logging.getLogger("carbon_otel").addHandler(Refused())
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
mlflow.set_tracking_uri(store)
client = mlflow.MlflowClient()
with mlflow.start_run() as run:
    pass
carbon_otel.instrument(
    zone="FR", trace_url=trace_url, tracer_provider=provider, checkpoint_interval_s=0.2, interval_s=0.1
)
with mlflow.start_run(run_id=run.info.run_id):
    try:
        with carbon_otel.stage("training"):
            raise OSError(f"no answer from {tracking_uri}")
    except OSError:
        pass
    carbon_otel.flush(60)
print(*client.get_run(run.info.run_id).data.tags.items(), sep="\n")
# A run whose store does not answer any more.
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # noqa: E402 - after the run above


def refuse(self, run_id, *args, **kwargs):
    raise OSError(f"no answer from {tracking_uri}")


SqlAlchemyStore.log_batch = refuse
with mlflow.start_run(), carbon_otel.stage("training"):
    for _ in range(60):
        if not refused.is_set():
            carbon_otel.flush(1)
carbon_otel.uninstrument()
