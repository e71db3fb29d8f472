"""Four hosts of two ranks each report one run: it is the sum of their devices.

The hosts are simulated by namespaces, each with a powercap tree, a folder to meet in, a boot id and a network of
its own. They reach one MLflow server on PostgreSQL and one collector over that network.
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
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from carbon_otel.mlflow.delivery.spool import Spool
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


def joules(part: contributions.Contribution) -> float:
    return part.values.get("carbon/energy_wh", 0.0) * 3600


def exactly(energy_j: float):
    return pytest.approx(energy_j, rel=1e-9)


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
        wait_for(lambda: not any(Path(f"/proc/{rank['pid']}").exists() for rank in self.ranks()))

    def unsent_j(self) -> dict[str, float]:
        """The last state of each rank that has not sent it, as its disk has it, in joules by writer."""
        states: dict[str, float] = {}
        for spool in Spool.left_in(self.folder / "state" / "mlflow"):
            for address in spool.addresses():
                for row in spool.waiting(address):
                    if row.batch.values:  # the first state of a run has none
                        states[row.batch.contribution_id] = row.batch.values["carbon/energy_wh"] * 3600
            spool.close()
        return states


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

    def parts(self) -> dict[str, contributions.Contribution]:
        """What each rank has written to the run."""
        return contributions.read(self.client.get_run(self.run_id).data.tags)

    def parts_j(self) -> dict[str, float]:
        return {name: joules(part) for name, part in self.parts().items()}

    def by_host(self) -> dict[str, float]:
        """What the ranks of each host have written to the run, in joules."""
        sums: dict[str, float] = {}
        for part in self.parts().values():
            name = part.process.partition("/")[0]
            sums[name] = sums.get(name, 0.0) + joules(part)
        return sums


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


def test_a_host_that_is_killed_counts_up_to_its_last_checkpoint(cluster, tracking):
    """The run is the devices of the survivors, and of the killed host what its ranks had written last."""
    cluster, program = cluster
    *survivors, killed = cluster.hosts
    with contextlib.ExitStack() as drawing:
        for host in cluster.hosts:
            drawing.enter_context(host.drawing())
        wait_for(lambda: killed.journals_j() > 5 and cluster.by_host().get(killed.folder.name, 0.0) > 5)
        at_least_j = cluster.by_host()[killed.folder.name]
        killed.kill()
        at_most_j = killed.used_j
        unsent_j = killed.unsent_j()
        wait_for(lambda: all(host.used_j > 20 for host in survivors))
    for host in survivors:
        host.settle()
    for host in survivors:
        host.let("end")
    assert json.loads(program.finish())[:-1] == [0] * len(survivors), program.err
    # The power is back: someone sends what the host has kept on its disk.
    variables = {"CARBON_OTEL_STATE_DIR": str(killed.folder / "state")}
    sent = CliRunner().invoke(app, ["mlflow", "sync", "--tracking-uri", tracking], env=variables)
    assert sent.exit_code == 0, sent.output
    written = cluster.by_host()
    parts_j = cluster.parts_j()
    assert {part: parts_j[part] for part in unsent_j} == {part: exactly(j) for part, j in unsent_j.items()}
    assert at_least_j * (1 - 1e-9) <= written[killed.folder.name] <= at_most_j
    assert at_least_j * (1 - 1e-9) <= killed.journals_j() <= at_most_j
    used_j = sum(host.used_j for host in survivors) + written[killed.folder.name]
    assert {host.folder.name: written[host.folder.name] for host in survivors} == {
        host.folder.name: exactly(host.used_j) for host in survivors
    }
    assert cluster.run_j() == exactly(used_j)
    (entry,) = carbon_otel.report(cluster.run_id, tracking_uri=tracking).entries
    assert entry.energy_wh * 3600 == exactly(used_j)
    assert entry.lower_bound == "has not ended in order"
