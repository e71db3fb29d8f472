"""The data that real OTLP receivers get, and the delay of the exit by a dead receiver."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import pytest

from tests.integration.processes import wait_for
from tests.integration.receivers import rotel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the receivers are Linux binaries")

# The bound on the exit with all backends dead, and an allowance for threads on a busy machine.
EXIT_BOUND_S = 5.0
SLACK_S = 5.0


@pytest.fixture
def export(launch):
    """Run a program with a stage that exports to an endpoint; returns the seconds from its work to its exit."""

    def run(endpoint: str, protocol: str) -> float:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        return launch("one_stage.py", **variables).exit_s()

    return run


async def _until(condition):
    while not condition():
        await asyncio.sleep(0.01)


def test_a_receiver_over_http(export, free_port):
    from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

    port = free_port()
    last = {}

    def note(metric):
        last[metric.name] = metric
        return False  # several exports may come, and the receiver tells of them after its answers

    def last_sums():
        known = (last.get(name) for name in ("carbon_otel.stage.energy", "hw.energy"))
        return [sum(p.as_double for p in metric.sum.data_points) for metric in known if metric is not None]

    def agree(stages, devices):
        return stages == pytest.approx(devices, rel=1e-9)

    async def receive():
        settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with OtelTapHttpProtobufReceiver(settings) as receiver:
            # The receiver does not keep requests, so the test waits from before the export.
            waiting = [
                asyncio.ensure_future(receiver.await_trace(lambda span: span.name == "fit", timeout=120)),
                asyncio.ensure_future(receiver.await_metric(note, timeout=600)),
            ]
            await asyncio.to_thread(export, f"http://127.0.0.1:{port}", "http/protobuf")
            span = await waiting[0]
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):  # the sums are compared below
                await asyncio.wait_for(_until(lambda: len(last_sums()) == 2 and agree(*last_sums())), 60)
            waiting[1].cancel()
            return span

    span = asyncio.run(receive())
    metric = last["carbon_otel.stage.energy"]
    attributes = {a.key: a.value for a in span.attributes}
    assert attributes["carbon_otel.stage.kind"].string_value == "training"
    joules = attributes["carbon_otel.energy.total_j"].double_value
    assert joules > 0
    assert metric.unit == "J" and metric.sum.is_monotonic
    training = [
        p for p in metric.sum.data_points if "training" in {a.value.string_value for a in p.attributes}
    ]
    assert sum(p.as_double for p in training) == pytest.approx(joules, rel=1e-9)
    stages, devices = last_sums()
    assert stages == pytest.approx(devices, rel=1e-9)


def test_an_agent_over_grpc(export, sink):
    with rotel(sink.url) as endpoint:
        export(endpoint, "grpc")
        wait_for(lambda: sink.spans() and sink.metrics())
    (fit,) = [span for span in sink.spans() if span.name == "fit"]
    assert {a.key for a in fit.attributes} >= {"carbon_otel.energy.total_j", "carbon_otel.method"}
    assert sink.metrics()["carbon_otel.stage.emissions"].unit == "g"
    assert sink.metrics()["hw.power"].gauge.data_points[0].as_double > 0


@pytest.mark.chaos
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("collector", ["refusing", "hanging", "unavailable"])
def test_a_dead_collector_delays_the_exit_for_a_bounded_time(collector, protocol, export, request):
    assert export(request.getfixturevalue(collector), protocol) < EXIT_BOUND_S + SLACK_S
