"""However a process ends, what its ended stages used arrives, by OTLP and in MLflow.

Each row of the table is one end of a program with a stage of 50 W. What is sent is compared with itself (the spans
with the metrics and with the run), and the sum over all processes with the counter of the device.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import defaultdict
from dataclasses import dataclass

import pytest

from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.processes import wait_for

mlflow = pytest.importorskip("mlflow")
contributions = pytest.importorskip("carbon_otel.mlflow.schema.contributions")
sync = pytest.importorskip("carbon_otel.cli.mlflow").sync

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux says who has sent a signal's byte"),
]

# As for other tests of several processes: extrapolation at the edges, and changes between two readings of a tick.
TOLERANCE = 0.04
# The signal that the test sends once the stage is over, if any.
TERM, KILL = signal.SIGTERM, signal.SIGKILL


@dataclass(frozen=True)
class End:
    """`sent` is a signal, `status` that of the process, `all_told` says that nothing is lost.

    Without `sums`, no metrics of children arrive: their provider is a copy of their parent's.
    """

    name: str
    status: int
    stages: int = 1
    sent: int | None = None
    all_told: bool = True
    sums: bool = True


ENDS = [
    End("returns", 0),
    End("raises", 1),
    End("exits with a status", 3),
    End("waits", -TERM, sent=TERM),
    End("open", -TERM, sent=TERM),
    End("calls", -TERM, sent=TERM),
    End("asyncio", -TERM, sent=TERM),
    End("handler", 4, sent=TERM),
    End("waits, own providers", -TERM, sent=TERM),
    End("open, own providers", -TERM, sent=TERM),
    End("process spawn, own providers", 0),
    End("pool spawn terminates, own providers", 0, 4),
    End("process fork, own providers", 0, sums=False),
    End("fork terminated", 100 + TERM),
    End("process fork", 0),
    End("process spawn", 0),
    End("executor fork", 0, 2),
    End("executor spawn", 0, 2),
    *(
        End(f"pool {method} {last}", 0, 4)
        for method in ("fork", "spawn", "forkserver")
        for last in ("closes", "terminates")
    ),
    End("fork exits", 0, all_told=False),
    End("leaves", 5, all_told=False),
    End("waits for a kill", -KILL, sent=KILL, all_told=False),
]


class Told:
    """What has arrived by OTLP: the joules of ended stages by their spans, and of all stages by the metrics."""

    def __init__(self, sink) -> None:
        fits = [span for span in sink.spans() if span.name.startswith("fit")]
        self.stages = len(fits)
        attributes = [{a.key: a.value for a in span.attributes} for span in fits]
        self.spans_j = sum(each["carbon_otel.energy.exclusive_j"].double_value for each in attributes)
        # As for a collector, the last point of a series counts: a forked child exports its parent's once more.
        series = {}
        for instance, metric in sink.exports():
            if metric.name == "carbon_otel.stage.energy":
                for point in metric.sum.data_points:
                    labels = {a.key: a.value.string_value for a in point.attributes}
                    series[(instance, *sorted(labels.items()))] = labels, point.as_double
        self.by_kind: dict[str, float] = defaultdict(float)
        for labels, joules in series.values():
            self.by_kind[labels["carbon_otel.stage.kind"]] += joules


def in_run(uri: str, run_id: str) -> tuple[float, str]:
    """The joules of training of a run, and its status, as reports read them."""
    data = mlflow.MlflowClient(uri).get_run(run_id).data
    figures, tags = contributions.figures_and_tags(data.metrics, data.tags)
    return figures.get("carbon/training/energy_wh", 0.0) * 3600, tags["carbon.status"]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.name)
def test_what_ended_stages_used_arrives(end, tmp_path, launch, sink, empty_store, monkeypatch):
    uri, state = empty_store.copy(tmp_path), tmp_path / "state"
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as package:
        program = launch("ends.py", end.name, uri, str(package.root), str(state), **variables)
        line = program.line()
        assert line, program.process.communicate()
        told = json.loads(line)
        if not end.all_told:
            wait_for(lambda: Told(sink).by_kind["training"] and Told(sink).stages)
            wait_for(lambda: in_run(uri, told["run"])[0] == pytest.approx(Told(sink).spans_j, rel=1e-6))
        if end.sent is not None:
            program.process.send_signal(end.sent)
        elif not end.all_told:
            program.go()
        _, errors = program.process.communicate(timeout=300)
        drawn = package.joules
    assert program.process.returncode == end.status, errors
    arrived = Told(sink)
    assert arrived.stages == end.stages, errors
    assert arrived.by_kind["training"] == pytest.approx(arrived.spans_j if end.sums else 0.0, rel=1e-6)
    before, after = told["around"]
    at_least = (told["worked"] - after if end.all_told else arrived.spans_j) if end.sums else 0.0
    assert at_least * (1 - TOLERANCE) < sum(arrived.by_kind.values()) < (drawn - before) * (1 + TOLERANCE)
    monkeypatch.setenv("CARBON_OTEL_STATE_DIR", str(state))
    sync(uri, None)  # what its uploader had no time for is on disk
    training_j, status = in_run(uri, told["run"])
    assert training_j == pytest.approx(arrived.spans_j, rel=1e-6)
    # MLflow does not learn of a kill: such a run can be found later.
    assert status == ("running" if end.status < 0 or not end.all_told else "final")
