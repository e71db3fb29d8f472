"""Four hosts of two ranks each report one run: it is the sum of their devices.

The hosts are simulated by namespaces, each with a powercap tree, a folder to meet in, a boot id and a network of its
own. They reach one MLflow server on PostgreSQL and one collector over that network.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import carbon_otel
from carbon_otel.mlflow.schema import contributions
from tests.collector.load import received_joules
from tests.collector.programs import collector
from tests.fakes import postgres, rack
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration.processes import Program, wait_for
from tests.integration.servers import MlflowServer

mlflow = pytest.importorskip("mlflow")

pytestmark = pytest.mark.chaos

RECEIVED = Path(__file__).parents[1] / "collector" / "received.yaml"
HOSTS, RANKS = 4, 2
KINDS = ("training", "run", "unattributed")


def exactly(joules: float):
    return pytest.approx(joules, rel=1e-9)


class Host:
    """One of the hosts, and its device, from which its first package draws."""

    def __init__(self, base: Path, number: int) -> None:
        self.folder = base / f"node{number}"
        (self.folder / "runtime").mkdir(parents=True)
        self.tree = server(self.folder)
        self.watts = 40 + 10 * number
        self.pids: list[int] = []
        # The counter at the begin of the program, and of the run.
        self.first_j = self.begin_j = self.counter_j

    @property
    def counter_j(self) -> float:
        return int(self.tree.package[0].file.read_text()) / 1e6

    @property
    def used_j(self) -> float:
        """What the device has used since the begin of the run."""
        return self.counter_j - self.begin_j

    def drawing(self) -> Drawing:
        return Drawing(self.tree, zones=1, watts=self.watts)

    def draw(self, joules: float) -> None:
        """Draw at least so much, and then stand still."""
        until_j = self.counter_j + joules
        with self.drawing():
            wait_for(lambda: self.counter_j >= until_j, poll_s=0.005)

    def ranks(self) -> list[dict[str, Any]]:
        """What its ranks say of themselves."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("rank-*.json"))]

    def settle(self) -> None:
        """Let the counter stand still when the ranks have booked all of it, and nothing beyond.

        Between two readings, energy is extrapolated. What was too much is made up for by later energy, so a little
        more is drawn until nothing is left.
        """
        while True:
            for _ in range(3):
                self._wait_for_turns(2)
                if sum(map(self.booked_j, KINDS)) == exactly(self.counter_j - self.first_j):
                    self._wait_for_turns(3)  # from then on, its power is zero
                    return
            self.tree.package[0].add(0.2)

    def _wait_for_turns(self, turns: int) -> None:
        until = [rank["turn"] + turns for rank in self.ranks()]
        wait_for(lambda: all(rank["turn"] >= turn for rank, turn in zip(self.ranks(), until, strict=True)))

    def booked_j(self, kind: str) -> float:
        """What its ranks have booked for stages of this kind."""
        return sum(rank["stages_j"].get(kind, 0.0) for rank in self.ranks())

    def is_in_run(self) -> bool:
        return all("training" in rank["stages_j"] for rank in self.ranks())

    def journals_j(self) -> float:
        """What its ranks have used by their journals, without the time before the run."""
        journals = [json.loads(file.read_text()) for file in self.folder.glob("journal-*.json")]
        stages = [journal["footprint"]["stages"] for journal in journals]
        return sum(each["training"]["energy_j"] for each in stages if "training" in each)

    def let(self, name: str) -> None:
        """Let its ranks go on that wait for this."""
        (self.folder / name).touch()

    def kill(self) -> None:
        """End all its processes, as a power cut does."""
        for pid in [*self.pids, *(int(rank["pid"]) for rank in self.ranks())]:
            os.kill(pid, signal.SIGKILL)


class Cluster:
    """Hosts that run the program `hosts.py`, and what has received their figures."""

    def __init__(self, folder: Path, uri: str, received: Path) -> None:
        self.client = mlflow.MlflowClient(uri)
        self.received = received
        self.experiment = self.client.create_experiment(folder.name, artifact_location=folder.as_uri())
        self.run_id = self.client.create_run(self.experiment).info.run_id
        self.hosts = [Host(folder, number) for number in range(HOSTS)]

    def start(self, switch: rack.Rack, launch, endpoint: str, uri: str) -> Program:
        variables = {
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_RUN_ID": self.run_id,
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        }
        program = launch("hosts.py", *(str(host.folder) for host in self.hosts), **variables)
        by_name = {host.folder.name: host for host in self.hosts}
        for number in range(HOSTS):
            name, pid = program.line().split()
            switch.attach(int(pid), number)
            by_name[name].pids.append(int(pid))
            by_name[name].let("connected")
        wait_for(lambda: all(len(host.ranks()) == RANKS for host in self.hosts))
        self._begin_run()
        return program

    def _begin_run(self) -> None:
        """Let the run begin while the counters stand still, so that its ranks have all of their energy.

        A counter that has never changed is not believed to stand still.
        """
        for host in self.hosts:
            host.draw(1)
            host.settle()
            host.begin_j = host.counter_j
            host.let("begin")
        for host in self.hosts:
            wait_for(host.is_in_run)

    def run_j(self) -> float:
        return self.client.get_run(self.run_id).data.metrics["carbon/energy_wh"] * 3600

    def by_host(self) -> dict[str, float]:
        """What the ranks of each host have written to the run, in joules."""
        joules: dict[str, float] = {}
        for part in contributions.read(self.client.get_run(self.run_id).data.tags).values():
            name = part.process.partition("/")[0]
            joules[name] = joules.get(name, 0.0) + part.values.get("carbon/energy_wh", 0.0) * 3600
        return joules


@pytest.fixture(scope="module")
def switch() -> Iterator[rack.Rack]:
    if lacking := rack.missing():
        pytest.skip(f"needs {lacking}")
    with rack.Rack() as switch:
        yield switch


@pytest.fixture(scope="module")
def tracking(switch, tmp_path_factory) -> Iterator[str]:
    if postgres.programs() is None:
        pytest.skip("needs Debian's package postgresql")
    with postgres.running() as database:
        web = MlflowServer(tmp_path_factory.mktemp("mlflow"), database, workers=2, address=switch.address)
        try:
            web.start()
            yield web.url
        finally:
            web.kill()


@pytest.fixture
def cluster(switch, tracking, tmp_path, launch) -> Iterator[tuple[Cluster, Program]]:
    with collector(tmp_path, RECEIVED, address=switch.address) as receiver:
        cluster = Cluster(tmp_path, tracking, tmp_path)
        yield cluster, cluster.start(switch, launch, receiver.http, tracking)


def test_the_run_is_the_sum_of_the_devices(cluster, tracking):
    cluster, program = cluster
    hosts = cluster.hosts
    with contextlib.ExitStack() as drawing:
        for host in hosts:
            drawing.enter_context(host.drawing())
        wait_for(lambda: all(host.used_j > 20 for host in hosts))
    for host in hosts:
        host.settle()
    for host in hosts:
        host.let("end")
    assert json.loads(program.finish()) == [0] * HOSTS, program.err
    used_j = sum(host.used_j for host in hosts)
    assert cluster.run_j() == exactly(used_j)
    assert cluster.by_host() == {host.folder.name: exactly(host.used_j) for host in hosts}
    assert sum(host.journals_j() for host in hosts) == exactly(used_j)
    exported = received_joules(cluster.received, "training")
    assert len(exported) == HOSTS * RANKS
    assert sum(exported.values()) == exactly(used_j)
    (entry,) = carbon_otel.report(cluster.run_id, tracking_uri=tracking).entries
    assert entry.energy_wh * 3600 == exactly(used_j)
    assert entry.lower_bound is None
