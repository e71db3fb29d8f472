"""One run exported in five ways: the joules are the same in each."""

from __future__ import annotations

import json
import re
import sys

import pytest

from tests.integration.processes import wait_for
from tests.integration.receivers import Receiver, rotel, serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the agent is a Linux binary")


@pytest.fixture
def other_sink():
    with serving(Receiver) as receiver:
        yield receiver


def spans_of(sink):
    return {
        s.name: {a.key: a.value.double_value for a in s.attributes}["carbon_otel.energy.total_j"]
        for s in sink.spans()
        if s.name in ("fit", "score") and "carbon_otel.energy.total_j" in {a.key for a in s.attributes}
    }


def counted(sink):
    """Exclusive joules by name of stage, from the last export."""
    metric = sink.metrics().get("carbon_otel.stage.energy")
    sums = {}
    for point in metric.sum.data_points if metric else ():
        name = {a.key: a.value.string_value for a in point.attributes}["carbon_otel.stage.name"]
        sums[name] = sums.get(name, 0) + point.as_double
    return {name: sums[name] for name in ("fit", "score") if name in sums}


def test_http_grpc_prometheus_and_logfire(launch, sink, other_sink, free_port):
    with rotel(other_sink.url) as grpc:
        output = json.loads(launch("everywhere.py", sink.url, grpc, str(free_port())).finish(60))
        exclusive = {name: pytest.approx(j, rel=1e-9) for name, j in output["exclusive"].items()}
        wait_for(lambda: len(spans_of(other_sink)) == 2 and counted(other_sink) == exclusive)
    truth = {name: pytest.approx(joules, rel=1e-9) for name, joules in output["truth"].items()}
    assert output["logfire"] == truth
    assert output["rolled_up"] == truth["fit"]
    assert spans_of(sink) == spans_of(other_sink) == truth
    assert counted(sink) == counted(other_sink) == exclusive
    scraped = {}
    # After a flush of the provider, its Prometheus reader shows every series twice.
    series = dict(
        re.findall(r"^carbon_otel_stage_energy_joules_total({.*}) (\S+)", output["scraped"], re.MULTILINE)
    )
    for labels, joules in series.items():
        (name,) = re.findall(r'carbon_otel_stage_name="(\w+)"', labels)
        scraped[name] = scraped.get(name, 0) + float(joules)
    assert {name: scraped[name] for name in ("fit", "score")} == exclusive
