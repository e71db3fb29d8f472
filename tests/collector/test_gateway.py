"""Agents on hosts, gateways behind them, and stores: nothing is lost while a gateway or a store is away."""

from __future__ import annotations

import contextlib
import http.server
import select
import socket
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from tests.collector.load import JOULES, DeltaSender, Sender, joules, post
from tests.collector.programs import Collector, collector, jaeger, prometheus, victoria_metrics
from tests.collector.test_deployments import run_job
from tests.collector.test_prometheus import NAMES
from tests.integration.processes import wait_for

GATEWAY = {"arguments": ["--feature-gates=exporter.prometheusremotewritexporter.RetryOn429"]}
# Of what a process may say of its place: all that becomes a label, and more.
PLACE = (
    "service.namespace=team,k8s.cluster.name=north,k8s.namespace.name=ml,k8s.pod.name=job-0,k8s.node.name=n1,"
    "k8s.pod.uid=1,deployment.environment.name=test,cloud.region=eu,team.color=blue"
)
HOST = {"hw_host_energy_joules_total", "hw_host_power_watts"}
ENERGY = "carbon_otel_stage_energy_joules_total"
TOTAL = f"sum(last_over_time({ENERGY}[1h]))"


class Balancer:
    """A load balancer as Kubernetes' services are: each new connection goes to the next gateway that lives."""

    def __init__(self, addresses: list[str]) -> None:
        self.addresses = addresses
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._turn = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it has been closed
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), self._connected() as gateway:
            other = {client: gateway, gateway: client}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    if not (data := ready.recv(65536)):
                        return
                    other[ready].sendall(data)

    def _connected(self) -> socket.socket:
        for _ in self.addresses:
            self._turn += 1
            address = self.addresses[self._turn % len(self.addresses)]
            with contextlib.suppress(OSError):
                return socket.create_connection((address, 4317))
        raise ConnectionError

    def close(self) -> None:
        self._listening.close()


@pytest.fixture(params=["victoria-metrics", "prometheus"])
def store(request, tmp_path):
    """A store that takes remote writes, and its address for them."""
    if request.param == "prometheus":
        receiver = "--web.enable-remote-write-receiver"
        with prometheus(tmp_path, arguments=[receiver]) as program:
            yield program, f"{program.url}/api/v1/write"
    else:
        with victoria_metrics(tmp_path, "-search.latencyOffset=0s") as program:
            yield program, program.remote_write


def folder_of(path: Path, name: str) -> Path:
    folder = path / name
    folder.mkdir()
    return folder


def test_a_gateway_that_is_killed_under_load(tmp_path, store):
    """Two agents: every joule of processes that send sums or deltas is in the store, and every span, once."""
    program, remote_write = store
    with contextlib.ExitStack() as running:
        traces = running.enter_context(jaeger(tmp_path))
        gateways = []
        for number in range(2):
            gateway = Collector(
                folder_of(tmp_path, f"gateway-{number}"),
                "config.yaml",
                "gateway.yaml",
                **GATEWAY,
                REMOTE_WRITE_ENDPOINT=remote_write,
                JAEGER_ENDPOINT=traces.grpc,
            )
            running.callback(gateway.stop)
            gateway.wait_until_ready()
            gateways.append(gateway)
        balancer = Balancer([gateway.address for gateway in gateways])
        running.callback(balancer.close)
        senders, deltas = [], []
        with contextlib.ExitStack() as sending:
            for number in range(2):
                agent = running.enter_context(
                    collector(
                        folder_of(tmp_path, f"agent-{number}"),
                        "config.yaml",
                        "agent.yaml",
                        GATEWAY_ENDPOINT=balancer.address,
                        GATEWAY_INSECURE="true",
                    )
                )
                senders.append(Sender(agent.http))
                deltas.append(DeltaSender(agent.http))
                sending.enter_context(senders[-1].at_work())
                sending.enter_context(deltas[-1].at_work())
            wait_for(lambda: (program.value(TOTAL) or 0) > 50 * JOULES)
            gateways[0].kill()
            sent = [len(sender.answered) for sender in senders]
            wait_for(lambda: all(len(s.answered) > n + 50 for s, n in zip(senders, sent, strict=True)))
        # What an agent has counted and could not pass on leaves with the next delta, and so does a sum that
        # Prometheus has refused, because it keeps one of each millisecond.
        time.sleep(0.002)
        for sender in deltas:
            sender.send()
        answered = sum(len(sender.answered) for sender in (*senders, *deltas))
        with contextlib.suppress(AssertionError):  # the next line says how many are missing, or too many
            wait_for(lambda: program.value(TOTAL) == pytest.approx(answered * JOULES, rel=1e-9))
        assert program.value(TOTAL) / JOULES == pytest.approx(answered, rel=1e-9)
        processes = {instance for sender in (*senders, *deltas) for instance in sender.answered}
        assert program.value(f"count(last_over_time({ENERGY}[1h]))") == len(processes)
        sent = Counter(instance[:16] for sender in senders for instance in sender.answered)
        wait_for(lambda: spans_of(traces) == sent)


DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize("way", ["agent and gateway", "prometheus.yaml"])
def test_a_point_that_prometheus_refuses_takes_no_other_process_with_it(tmp_path, way):
    """Of a process whose clock is late by two days, and of one that exports twice in a millisecond."""
    receivers = ["--web.enable-remote-write-receiver", "--web.enable-otlp-receiver"]
    with contextlib.ExitStack() as running:
        store = running.enter_context(prometheus(tmp_path, arguments=receivers))
        if way == "prometheus.yaml":
            files, to = ["prometheus.yaml"], {"PROMETHEUS_ENDPOINT": f"{store.url}/api/v1/otlp"}
        else:
            traces = running.enter_context(jaeger(tmp_path))
            where = {
                "REMOTE_WRITE_ENDPOINT": f"{store.url}/api/v1/write",
                "JAEGER_ENDPOINT": traces.grpc,
            }
            gateway = running.enter_context(
                collector(folder_of(tmp_path, "gateway"), "config.yaml", "gateway.yaml", **GATEWAY, **where)
            )
            files = ["agent.yaml"]
            to = {"GATEWAY_ENDPOINT": f"{gateway.address}:4317", "GATEWAY_INSECURE": "true"}
        program = running.enter_context(
            collector(folder_of(tmp_path, "sending"), "config.yaml", *files, **to)
        )
        sender = Sender(program.http)
        sender.send()
        wait_for(lambda: store.value(TOTAL) == JOULES)  # from now on, there is a time that is too long ago
        now_ns = time.time_ns()
        now_ns -= now_ns % 10**6
        twice = [joules("twice", now_ns - 10**9 + each, now_ns + each) for each in range(2)]
        for content in (joules("late", now_ns=now_ns - 2 * DAY_NS), *twice):
            sender.send()
            assert post(program.http, "metrics", content) == 200
            sender.send()
        total = len(sender.answered) + 1  # with the first sum of the process that has exported twice
        wait_for(lambda: store.value(TOTAL) == total * JOULES)
        assert program.log.read_text().count("Dropping data") == 2


def spans_of(store):
    """How often Jaeger has each span."""
    return Counter(span["spanID"] for trace in store.traces("load") for span in trace["spans"])


def test_the_same_process_has_the_same_series_on_every_way(tmp_path):
    """Scraped, pushed, through agent and gateway, and to a gateway itself: one set of rules serves all."""
    with (
        collector(folder_of(tmp_path, "scraped")) as scraped,
        prometheus(tmp_path, scraped.scraped, intervals="1s") as reference,
        prometheus(tmp_path, otlp=True) as pushed,
        collector(
            folder_of(tmp_path, "pushing"),
            "config.yaml",
            "prometheus.yaml",
            PROMETHEUS_ENDPOINT=f"{pushed.url}/api/v1/otlp",
        ) as pushing,
        victoria_metrics(tmp_path, "-search.latencyOffset=0s") as victoria,
        prometheus(tmp_path, arguments=["--web.enable-remote-write-receiver"]) as written,
        jaeger(tmp_path) as traces,
        collector(
            folder_of(tmp_path, "gateway"),
            "config.yaml",
            "gateway.yaml",
            Path(__file__).with_name("second_store.yaml"),
            **GATEWAY,
            REMOTE_WRITE_ENDPOINT=victoria.remote_write,
            SECOND_ENDPOINT=f"{written.url}/api/v1/write",
            JAEGER_ENDPOINT=traces.grpc,
        ) as gateway,
        collector(
            folder_of(tmp_path, "agent"),
            "config.yaml",
            "agent.yaml",
            GATEWAY_ENDPOINT=f"{gateway.address}:4317",
            GATEWAY_INSECURE="true",
        ) as agent,
    ):
        for to in (scraped, pushing, agent, gateway):
            run_job(
                folder_of(tmp_path, f"job-{to.address}"),
                to,
                "grpc",
                OTEL_RESOURCE_ATTRIBUTES=PLACE,
            )
        (direct,) = wait_for(lambda: complete(reference, 1))
        assert {dict(series)["job"] for series in direct} == {"team/job"}
        for store, processes in ((pushed, 1), (victoria, 2), (written, 2)):
            for found in wait_for(lambda store=store, number=processes: complete(store, number)):
                assert found == direct


def complete(store, processes):
    """The series of each process, but for its id, once each has all metrics that a stage with units makes."""
    found = {}
    for sample in store.query('{__name__=~"(carbon_otel|hw)_.+"}'):
        labels = sample["metric"]
        found.setdefault(labels.pop("instance"), set()).add(frozenset(labels.items()))
    needed = NAMES - {"carbon_otel_stage_duration_seconds_bucket"} - HOST
    whole = [of for of in found.values() if {dict(series)["__name__"] for series in of} >= needed]
    return len(whole) == processes and whole


class Struggling(http.server.BaseHTTPRequestHandler):
    """A store that answers some requests with these statuses, and then hands all on to a real one."""

    statuses: list[int]
    store: str

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.statuses:
            status = self.statuses.pop(0)
        else:
            names = ("Content-Type", "Content-Encoding", "X-Prometheus-Remote-Write-Version")
            headers = {name: self.headers[name] for name in names}
            with urllib.request.urlopen(urllib.request.Request(self.store, body, headers)) as answer:
                status = answer.status
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_a_store_that_struggles_loses_nothing(tmp_path):
    """The gateway keeps nothing and says so to the agent, which sends again."""
    with victoria_metrics(tmp_path, "-search.latencyOffset=0s") as store, jaeger(tmp_path) as traces:
        handler = type("", (Struggling,), {"statuses": [503, 429, 500], "store": store.remote_write})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with (
                collector(
                    folder_of(tmp_path, "gateway"),
                    "config.yaml",
                    "gateway.yaml",
                    **GATEWAY,
                    REMOTE_WRITE_ENDPOINT=f"http://127.0.0.1:{server.server_port}/api/v1/write",
                    JAEGER_ENDPOINT=traces.grpc,
                ) as gateway,
                collector(
                    folder_of(tmp_path, "agent"),
                    "config.yaml",
                    "agent.yaml",
                    GATEWAY_ENDPOINT=f"{gateway.address}:4317",
                    GATEWAY_INSECURE="true",
                ) as agent,
            ):
                sender = Sender(agent.http)
                for _ in range(5):
                    sender.send()
                wait_for(lambda: store.value(TOTAL) == pytest.approx(5 * JOULES), timeout_s=150)
        finally:
            server.shutdown()
            server.server_close()
    assert handler.statuses == []
