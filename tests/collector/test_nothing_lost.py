"""What the collector has answered with 200 arrives, whatever happens to it or to its upstream."""

from __future__ import annotations

import contextlib
import random
import time

import pytest

from tests.collector.load import JOULES, Sender, post, received_joules, received_spans, span
from tests.collector.programs import Collector, collector, own_address, prometheus
from tests.integration.processes import free_port, wait_for

RECEIVED = __file__.replace("test_nothing_lost.py", "received.yaml")


class Upstream:
    """An address where a collector takes everything, at times."""

    def __init__(self, folder):
        self.folder = folder / "upstream"
        self.folder.mkdir()
        self.address = own_address()

    @contextlib.contextmanager
    def running(self):
        with collector(self.folder, RECEIVED, address=self.address) as program:
            yield program

    def has_all(self, sender):
        """Waits until everything that was answered has arrived; gives how often each span did."""
        expected = dict.fromkeys(sender.answered, JOULES)
        wait_for(lambda: received_joules(self.folder).items() >= expected.items())
        ids = {instance[:16] for instance in sender.answered}
        return wait_for(lambda: (spans := received_spans(self.folder)).keys() >= ids and spans)


class Sending:
    """A collector with `config.yaml` and `upstream.yaml`, always at one address and with one folder."""

    def __init__(self, folder, upstream, protocol="grpc", **variables):
        self.folder = folder
        self.variables = {
            "address": own_address(),
            "UPSTREAM_PROTOCOL": protocol,
            "UPSTREAM_ENDPOINT": f"{upstream.address}:4317"
            if protocol == "grpc"
            else f"http://{upstream.address}:4318",
            "UPSTREAM_INSECURE": "true",
            **variables,
        }

    def start(self) -> Collector:
        program = Collector(self.folder, "config.yaml", "upstream.yaml", **self.variables)
        program.wait_until_ready()
        return program


@pytest.fixture
def upstream(tmp_path):
    return Upstream(tmp_path)


def killed_right_after_an_answer(tmp_path, upstream, kills):
    moments = random.Random(kills)
    sending = Sending(tmp_path, upstream)
    with upstream.running():
        sender = None
        for _ in range(kills):
            program = sending.start()
            sender = sender or Sender(program.http)
            try:
                for _ in range(20):
                    sender.send()
                time.sleep(moments.choice([0, 0, 0.3, 1, 1.5]))
            finally:
                program.kill()
        program = sending.start()
        try:
            upstream.has_all(sender)
        finally:
            program.stop()
    # The file that config.yaml keeps has them, too.
    assert received_spans(tmp_path).keys() >= {each[:16] for each in sender.answered}


def test_kills_right_after_an_answer_lose_nothing(tmp_path, upstream):
    killed_right_after_an_answer(tmp_path, upstream, 5)


@pytest.mark.soak
def test_many_kills_right_after_an_answer_lose_nothing(tmp_path, upstream):
    killed_right_after_an_answer(tmp_path, upstream, 50)


def test_a_restart_while_the_upstream_is_dead_loses_nothing_and_counts_nothing_twice(tmp_path, upstream):
    sending = Sending(tmp_path, upstream)
    program = sending.start()
    sender = Sender(program.http)
    try:
        for _ in range(3):
            for _ in range(20):
                sender.send()
            wait_for(lambda program=program: "Will retry" in program.log.read_text())
            program.stop()
            assert program.process.returncode == 0
            program = sending.start()
        with upstream.running():
            spans = upstream.has_all(sender)
    finally:
        program.stop()
    assert set(spans.values()) == {1}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_dead_upstream_and_a_kill_lose_nothing(tmp_path, upstream, protocol):
    sending = Sending(tmp_path, upstream, protocol)
    program = sending.start()
    sender = Sender(program.http)
    try:
        for _ in range(50):
            sender.send()
        program.kill()
        program = sending.start()
        for _ in range(50):
            sender.send()
        with upstream.running():
            upstream.has_all(sender)
    finally:
        program.stop()
    assert "Dropping data" not in program.log.read_text()


def test_restarts_under_load_lose_nothing_and_count_nothing_twice(tmp_path, upstream):
    sending = Sending(tmp_path, upstream)
    program = sending.start()
    sender = Sender(program.http)
    with upstream.running():
        try:
            with sender.at_work():
                for _ in range(5):
                    sent = len(sender.answered)
                    wait_for(lambda sent=sent: len(sender.answered) > sent + 20)
                    program.stop()
                    assert program.process.returncode == 0
                    program = sending.start()
            spans = upstream.has_all(sender)
        finally:
            program.stop()
    assert set(spans.values()) == {1}


def test_processes_that_end_while_prometheus_is_away_and_the_collector_is_killed(tmp_path):
    """With `prometheus.yaml`. A collector that is scraped has these processes in its memory only."""
    total = "sum(last_over_time(carbon_otel_stage_energy_joules_total[1h]))"
    address = f"127.0.0.1:{free_port()}"
    pushing = {"address": own_address(), "PROMETHEUS_ENDPOINT": f"http://{address}/api/v1/otlp"}
    sender = None
    for end in (Collector.kill, Collector.stop):
        with collector(tmp_path, "config.yaml", "prometheus.yaml", **pushing) as program:
            sender = sender or Sender(program.http)
            for _ in range(20):
                sender.send()
            end(program)
    with (
        collector(tmp_path, "config.yaml", "prometheus.yaml", **pushing),
        prometheus(tmp_path, otlp=True, address=address) as store,
    ):
        wait_for(lambda: store.value(total) == pytest.approx(len(sender.answered) * JOULES), timeout_s=60)


def test_a_full_queue_refuses_what_is_new_and_keeps_what_it_took(tmp_path, upstream):
    sending = Sending(tmp_path, upstream, OTELCOL_QUEUE_BYTES="300000", OTELCOL_SELF_INTERVAL="1s")
    program = sending.start()
    taken = []
    try:
        for number in range(20):
            instance = f"{number + 1:016x}"
            status = post(program.http, "traces", span(instance, padding=50_000))
            if status == 200:
                taken.append(instance)
            else:
                assert status == 503
        assert 3 <= len(taken) < 20
        assert "sending queue is full" in program.log.read_text()
        near = "otelcol_exporter_queue_size{data_type=traces,exporter=otlp_grpc/UPSTREAM_ENDPOINT}"
        wait_for(lambda: near in program.log.read_text())
        assert near.replace("traces", "metrics") not in program.log.read_text()
        with upstream.running():
            wait_for(lambda: received_spans(upstream.folder).keys() == set(taken))
            # There is room again.
            wait_for(lambda: post(program.http, "traces", span("f" * 16)) == 200)
            wait_for(lambda: "f" * 16 in received_spans(upstream.folder))
    finally:
        program.stop()
