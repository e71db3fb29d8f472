"""What the programs of this folder have in common: each is one rank of a training, or starts the ranks.

Arguments: the way to train, the tracking URI, the powercap root, and a folder for the state and the books.
"""

import atexit
import contextlib
import json
import os
import sys
from multiprocessing import util
from pathlib import Path

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel

way, uri, root, folder = sys.argv[1:]
FOLDER = Path(folder)
ROWS, BATCH, EPOCHS = 48, 4, 2
SLOW_S = 0.03  # a step of rank 1

_exporter = InMemorySpanExporter()
_drawn: dict[str, float] = {}


def _joules() -> float:
    return int((Path(root) / "intel-rapl:0" / "energy_uj").read_text()) / 1e6


def _write_books() -> None:
    file = FOLDER / f"books-{os.getpid()}.json"
    if file.exists():
        return
    own = carbon_otel.footprint()
    _drawn["closed"] = _joules()
    carbon_otel.uninstrument()
    books = {
        "all": own.energy_j,
        "stages": {kind: cost.energy_j for kind, cost in own.stages.items()},
        "drawn": _drawn,
        "mlflow": "mlflow" in sys.modules,
        "spans": [
            {
                "name": span.name,
                "trace": span.context.trace_id,
                "id": span.context.span_id,
                "parent": span.parent and span.parent.span_id,
                **span.attributes,
            }
            for span in _exporter.get_finished_spans()
        ],
    }
    file.write_text(json.dumps(books))


def instrument(interval_s: float = 0.1) -> None:
    """Begin to measure, and write the books of this process just before its end."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    _drawn["before"] = _joules()
    carbon_otel.instrument(
        zone="FR",
        powercap_root=root,
        interval_s=interval_s,
        checkpoint_interval_s=0.2,
        state_dir=FOLDER / "state",
        tracer_provider=provider,
    )
    _drawn["begun"] = _joules()
    atexit.register(_write_books)
    # In a process of multiprocessing, the measurement ends with the finalizers, before `atexit`.
    util.Finalize(None, _write_books, exitpriority=10)


def run_of(rank: int):
    """The run of rank 0, which alone knows MLflow."""
    if rank > 0:
        return contextlib.nullcontext()
    import mlflow

    mlflow.set_tracking_uri(uri)
    return mlflow.start_run()
