"""Two runs, each with a stage that hands tasks to a cluster of Dask. Prints as JSON what has come of them.

Arguments: the tracking URI, the powercap root, the state folder, and what the tasks do: `computes` or `measures`.
"""

import json
import sys
import time
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

import carbon_otel
from carbon_otel import runtime

uri, root, state, work = sys.argv[1:]


class Lines(SpanExporter):
    """Adds a line for each ended stage to a file of all processes."""

    def export(self, spans):
        with (Path(state) / "spans").open("a") as file:
            for span in spans:
                line = {
                    "name": span.name,
                    "id": span.context.span_id,
                    "trace": span.context.trace_id,
                    "parent": span.parent and span.parent.span_id,
                    "own_j": span.attributes["carbon_otel.energy.exclusive_j"],
                }
                file.write(json.dumps(line) + "\n")
        return SpanExportResult.SUCCESS


def joules() -> float:
    return int((Path(root) / "intel-rapl:0" / "energy_uj").read_text()) / 1e6


before = joules()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Lines()))
carbon_otel.instrument(
    zone="FR",
    powercap_root=root,
    interval_s=0.05,
    checkpoint_interval_s=0.2,
    state_dir=state,
    tracer_provider=provider,
)
instrumented = joules()


def compute(number: int) -> int:
    until = time.thread_time() + 0.2
    while time.thread_time() < until:
        sum(range(1000))
    return number


def measure(number: int) -> int:
    with carbon_otel.stage("training", f"fit {number}"):
        return compute(number)


def books() -> tuple[float, float] | None:
    """All joules of this process, and those of no stage; None if it is not measured."""
    if runtime.begun() is None:
        return None
    carbon_otel.flush()
    own = carbon_otel.footprint()
    return own.energy_j, own.stages["unattributed"].energy_j


if __name__ == "__main__":
    import mlflow
    from dask.distributed import Client, LocalCluster

    mlflow.set_tracking_uri(uri)
    task = measure if work == "measures" else compute
    with LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        for number in range(2):
            with mlflow.start_run(), carbon_otel.stage("training", f"outer {number}"):
                client.gather(client.map(task, range(4), pure=False))
        measured = [each for each in (books(), *client.run(books).values()) if each is not None]
        device = [joules() - instrumented, joules() - before]
    carbon_otel.uninstrument()
    runs = [run.data.metrics["carbon/energy_wh"] * 3600 for run in mlflow.search_runs(output_format="list")]
    spans = [json.loads(line) for line in (Path(state) / "spans").read_text().splitlines()]
    print(json.dumps({"spans": spans, "runs": runs, "books": measured, "device": device}))
