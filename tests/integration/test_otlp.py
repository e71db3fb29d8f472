"""What leaves by OTLP, as real receivers get it; and how long dead ones can hold up an exit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest

import carbon_otel

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the receivers are Linux binaries")

# Added exit time with every backend dead, DESIGN's bound, and what a busy machine may add to it.
EXIT_BOUND_S = 5.0
SLACK_S = 1.5


def endpoint(url: str, protocol: str = "http/protobuf") -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}


def joules(metric, **labels: str) -> float:
    """The sum of a counter's points that have these labels."""
    wanted = {(f"carbon_otel.stage.{name}", value) for name, value in labels.items()}
    return sum(
        point.as_double
        for point in metric.sum.data_points
        if wanted <= {(a.key, a.value.string_value) for a in point.attributes}
    )


def test_a_receiver_over_http(launch, free_port):
    from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

    port = free_port()
    names = ("carbon_otel.stage.energy", "hw.energy")

    async def receive():
        settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with OtelTapHttpProtobufReceiver(settings) as tap:
            # The receiver streams: who waits must wait before it comes.
            waits = [tap.await_trace(lambda span: span.name == "fit", timeout=30)]
            waits += [tap.await_metric(lambda m, name=name: m.name == name, timeout=30) for name in names]
            waiting = [asyncio.ensure_future(wait) for wait in waits]
            program = launch("pipeline.py", **endpoint(f"http://127.0.0.1:{port}"))
            await asyncio.to_thread(program.finish)
            return await asyncio.gather(*waiting)

    span, stages, devices = asyncio.run(receive())
    attributes = {a.key: a.value for a in span.attributes}
    assert attributes["carbon_otel.stage.kind"].string_value == "training"
    total = attributes["carbon_otel.energy.total_j"].double_value
    assert total > 0
    assert stages.unit == "J" and stages.sum.is_monotonic
    assert joules(stages, kind="training") == pytest.approx(total, rel=1e-9)
    assert joules(stages) == pytest.approx(joules(devices), rel=1e-9)
    training = [p for p in stages.sum.data_points if "training" in str(p.attributes)]
    exemplars = {exemplar.span_id for point in training for exemplar in point.exemplars}
    assert exemplars == {span.span_id}


@contextlib.contextmanager
def rotel(sink: str, grpc: int, web: int):
    """The agent: gRPC in, HTTP out to the sink."""
    lacking = pytest.fail if os.environ.get("CI") else pytest.skip
    binary = Path(sysconfig.get_path("purelib")) / "rotel" / "rotel-agent"
    if not binary.exists():
        lacking("the package rotel is not installed")
    inputs = ["--otlp-grpc-endpoint", f"127.0.0.1:{grpc}", "--otlp-http-endpoint", f"127.0.0.1:{web}"]
    output = ["--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-endpoint", sink]
    agent = subprocess.Popen(
        [binary, "start", *inputs, *output], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 15
        while True:
            if agent.poll() is not None:
                said = agent.stderr.read()
                if "libpython3.11" in said:
                    lacking(f"rotel needs Debian's package libpython3.11: {said}")
                pytest.fail(f"rotel did not start: {said}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", grpc), 1):
                break
            assert time.monotonic() < deadline, "rotel does not listen"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{grpc}"
    finally:
        agent.kill()
        agent.communicate()


def test_an_agent_over_grpc(launch, sink, free_port):
    with rotel(sink.url, free_port(), free_port()) as url:
        launch("pipeline.py", **endpoint(url, "grpc")).finish()
        deadline = time.monotonic() + 20
        while not (sink.spans() and sink.metrics()) and time.monotonic() < deadline:
            time.sleep(0.1)
    (span,) = sink.spans()
    (metrics,) = sink.metrics().values()
    assert span.name == "fit"
    assert {a.key for a in span.attributes} >= {"carbon_otel.energy.total_j", "carbon_otel.method"}
    assert metrics["carbon_otel.stage.emissions"].unit == "g{CO2e}"
    assert metrics["hw.power"].gauge.data_points[0].as_double > 0
    stages = metrics["carbon_otel.stage.energy"]
    assert joules(stages) == pytest.approx(joules(metrics["hw.energy"]), rel=1e-9)


def test_a_counter_seen_in_mid_stage_goes_on_rising(launch, sink):
    """What several exports of one program say of its stage never goes down, and ends at the span's figure."""
    program = launch("pipeline.py", **endpoint(sink.url), OTEL_METRIC_EXPORT_INTERVAL="50")
    seen = []
    while program.process.poll() is None:
        for metrics in sink.metrics().values():
            if "carbon_otel.stage.energy" in metrics:
                seen.append(joules(metrics["carbon_otel.stage.energy"], kind="training"))
        time.sleep(0.02)
    program.finish()
    (metrics,) = sink.metrics().values()
    seen.append(joules(metrics["carbon_otel.stage.energy"], kind="training"))
    assert seen == sorted(seen) and len({value for value in seen if value > 0}) > 1
    (span,) = sink.spans()
    attributes = {a.key: a.value for a in span.attributes}
    assert seen[-1] == pytest.approx(attributes["carbon_otel.energy.total_j"].double_value, rel=1e-9)


@pytest.mark.chaos
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("collector", ["refusing", "hanging", "unavailable"])
def test_a_dead_collector_holds_up_the_exit_for_a_bounded_time(collector, protocol, launch, request):
    url = request.getfixturevalue(collector)
    assert launch("pipeline.py", **endpoint(url, protocol)).leave() < EXIT_BOUND_S + SLACK_S


def test_a_healthy_collector_does_not_hold_up_the_exit(launch, sink):
    assert launch("pipeline.py", **endpoint(sink.url)).leave() < 0.2 + SLACK_S
    assert [span.name for span in sink.spans()] == ["fit"]


@pytest.mark.chaos
def test_a_hanging_collector_does_not_hold_up_stages_and_flushes(hanging, monkeypatch, tree, caplog):
    for name, value in endpoint(hanging).items():
        monkeypatch.setenv(name, value)
    # Said by the SDK, from its own threads.
    caplog.set_level(logging.CRITICAL, "opentelemetry")
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval=0.05)
    began = time.monotonic()
    for _ in range(20):
        with carbon_otel.stage("inference"):
            pass
    assert time.monotonic() - began < 1
    began = time.monotonic()
    assert carbon_otel.flush(0.5) is False
    assert time.monotonic() - began < 0.5 + SLACK_S
    began = time.monotonic()
    carbon_otel.uninstrument()
    assert time.monotonic() - began < EXIT_BOUND_S + SLACK_S


def test_sessions_that_export_leave_nothing_behind(sink, monkeypatch, tree):
    for name, value in endpoint(sink.url).items():
        monkeypatch.setenv(name, value)

    def cycle() -> None:
        carbon_otel.instrument(zone="FR", powercap_root=tree.root)
        with carbon_otel.stage("training"):
            pass
        carbon_otel.flush()
        carbon_otel.uninstrument()

    def held() -> tuple[int, int]:
        """Descriptors and threads; the receiver's threads and those of closed connections have a moment."""
        end = time.monotonic() + 2
        while threading.active_count() > before[1] and time.monotonic() < end:
            time.sleep(0.02)
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    cycle()
    before = (1000, 0)
    before = held()
    for _ in range(5):
        cycle()
    assert held() == before
