"""A thousand hosts that report one run and one model through a real MLflow server: its CPU time, and the report's.

One program writes for all of them, with an uploader and a state for each, as their uploader threads do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest

import carbon_otel
from carbon_otel.mlflow import compat
from carbon_otel.mlflow.delivery.batch import LedgerRun
from carbon_otel.mlflow.delivery.segment import Segment
from carbon_otel.mlflow.delivery.uploader import Uploader
from carbon_otel.mlflow.schema import names
from carbon_otel.mlflow.schema.contributions import Contribution
from tests.fakes import postgres
from tests.fakes.powercap import server
from tests.integration.servers import MlflowServer

mlflow = pytest.importorskip("mlflow")

HOSTS = int(os.environ.get("FLEET", "1000"))
MEASURED = 20
CHECKPOINTS = 3


@pytest.fixture(params=["sqlite", "postgresql"])
def web(request, tmp_path) -> Iterator[MlflowServer]:
    if request.param == "sqlite":
        yield from serving(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    elif postgres.programs() is None:
        pytest.skip("needs Debian's package postgresql")
    else:
        with postgres.running() as database:
            yield from serving(tmp_path, database)


def serving(folder, backend: str) -> Iterator[MlflowServer]:
    web = MlflowServer(folder, backend, workers=2)
    try:
        web.start()
        yield web
    finally:
        web.kill()


@pytest.fixture
def footprint(tmp_path):
    """That of a process on a host with two sockets."""
    tree = server(tmp_path)
    carbon_otel.instrument(zone="FR", powercap_root=tree.root)
    with carbon_otel.stage("training"):
        for _ in range(20):
            time.sleep(0.01)
            for zone in tree.zones.values():
                zone.add(0.1)
    footprint = carbon_otel.footprint()
    carbon_otel.uninstrument()
    return footprint


class Host:
    """One of the processes, and its part in a run, or its window of inference."""

    def __init__(self, number: int, store, footprint, run_id: str, entry: LedgerRun | None = None) -> None:
        self._uploader = Uploader(store)
        self._footprint = footprint
        self._process = f"node{number}/boot/4026531836/4711/815/machine"
        contribution = f"{number:012x}"
        self._segment = Segment(
            1, 1.8e9, run_id=run_id, contribution_id=contribution, resumed=entry is None, ledger_run=entry
        )
        self._seconds = 0.0

    def checkpoint(self, final: bool = False) -> None:
        self._seconds += 15
        tags = names.provenance_tags(
            self._footprint,
            status="final" if final else "running",
            hardware="AMD EPYC 9654",
            attribution="reserved",
            trace_id=f"{1:032x}",
            trace_url=None,
            lineage="churn",
            process=self._process,
        )
        batch = self._segment.state(
            self._footprint, tags, self._seconds, units={"training/samples": 1e6}, final=final
        )
        self._uploader._write([batch])


@contextmanager
def server_time(web: MlflowServer, tell: Callable[[float], None]) -> Iterator[None]:
    """The CPU seconds of the server and its workers within the block."""

    def spent() -> float:
        main = psutil.Process(web._process.pid)
        times = [process.cpu_times() for process in [main, *main.children(recursive=True)]]
        return sum(each.user + each.system for each in times)

    before = spent()
    yield
    tell(spent() - before)


def test_hosts_of_one_run(web, footprint, table, request):
    """The last hosts of many: the others have written their parts, which every reader of the run adds up."""
    where = request.node.callspec.params["web"]
    client = mlflow.MlflowClient(web.url)
    store = compat.store_of(client)
    run_id = client.create_run(client.create_experiment("churn")).info.run_id
    hosts = [Host(number, store, footprint, run_id) for number in range(MEASURED)]
    fill(store, run_id, footprint, range(MEASURED, HOSTS))

    def per_host(what: str) -> Callable[[float], None]:
        task = f"{what} of a host among {HOSTS:,} in a run, {where}, server's CPU time"
        return lambda seconds: table(task, "carbon_otel", seconds / MEASURED * 1000, "ms")

    with server_time(web, per_host("first checkpoint")):
        for host in hosts:
            host.checkpoint()
    with server_time(web, lambda seconds: per_host("checkpoint")(seconds / CHECKPOINTS)):
        for _ in range(CHECKPOINTS):
            for host in hosts:
                host.checkpoint()
    with server_time(web, per_host("end")):
        for host in hosts:
            host.checkpoint(final=True)
    total_wh = client.get_run(run_id).data.metrics[names.ENERGY_WH]
    assert total_wh == pytest.approx(HOSTS * footprint.energy_wh, rel=1e-9)
    timed_report(web, table, where, f"report of a run of {HOSTS:,} hosts", run_id, total_wh)


def test_hosts_of_one_model(web, footprint, table, request):
    """Each host has a window of inference on the ledger."""
    where = request.node.callspec.params["web"]
    store = compat.store_of(mlflow.MlflowClient(web.url))

    def per_host(what: str) -> Callable[[float], None]:
        task = f"{what} of a window of a model, {HOSTS:,} hosts, {where}, server's CPU time"
        return lambda seconds: table(task, "carbon_otel", seconds / HOSTS * 1000, "ms")

    windows = [
        Host(
            number,
            store,
            footprint,
            "",
            LedgerRun(f"{number:032x}", f"inference {number}", 1_800_000_000_000),
        )
        for number in range(HOSTS)
    ]
    for what, final in (("first checkpoint", False), ("checkpoint", False), ("end", True)):
        with server_time(web, per_host(what)):
            for host in windows:
                host.checkpoint(final)
    timed_report(
        web, table, where, f"report of a model on {HOSTS:,} hosts", "churn", HOSTS * footprint.energy_wh
    )


def fill(store, run_id: str, footprint, numbers: range) -> None:
    """The parts of hosts that have ended."""
    values = names.footprint_metrics(footprint, units={"training/samples": 1e6})
    tags = []
    for number in numbers:
        part = Contribution(values, "", final=True, process=f"node{number}/boot/4026531836/4711/815/machine")
        tags += [mlflow.entities.RunTag(*tag) for tag in part.written(f"{number:012x}").items()]
    for first in range(0, len(tags), 90):
        store.log_batch(run_id, metrics=[], params=[], tags=tags[first : first + 90])


def timed_report(web, table, where: str, what: str, name: str, expected_wh: float) -> None:
    began = time.perf_counter()
    with server_time(web, lambda s: table(f"{what}, {where}, server's CPU time", "carbon_otel", s, "s")):
        report = carbon_otel.report(name, tracking_uri=web.url)
    table(f"{what}, {where}", "carbon_otel", time.perf_counter() - began, "s")
    assert report.total.energy_wh == pytest.approx(expected_wh, rel=1e-9)
