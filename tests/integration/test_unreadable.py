"""Windows of any size in a real store, and runs there that cannot be read."""

from __future__ import annotations

import json
import time

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from tests.fakes.powercap import server
from tests.integration.stores import tracking

mlflow = pytest.importorskip("mlflow")

KINDS = 80


@pytest.fixture(scope="module")
def uri(tmp_path_factory, empty_store):
    """A store with a window of 80 kinds of stage of the lineage `churn`, and a run of it whose tag was cut."""
    folder = tmp_path_factory.mktemp("unreadable")
    with tracking(empty_store.copy(folder)) as found:
        client = mlflow.MlflowClient()
        client.search_experiments()  # loads the store, which takes longer than an exit may
        tree = server(folder / "sys")
        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30, lineage="churn")
        for number in range(KINDS):
            with carbon_otel.stage(f"stage_number_{number}") as stage:
                time.sleep(0.005)  # all at once would be more than a processor can draw
                tree.package[0].add(1)
                stage.units(requests=number + 1)
        carbon_otel.uninstrument()
        tags = {
            "carbon.lineage": "churn",
            "carbon.status": "running",
            "carbon.window": '{"metrics":{"carbon/',
        }
        client.create_run("0", tags=tags, run_name="cut")
        yield found


def invoke(uri, *arguments):
    return CliRunner().invoke(app, [*arguments, "--tracking-uri", uri], env={"COLUMNS": "200"})


def test_a_window_with_many_kinds_of_stage_is_read_back(uri):
    report = carbon_otel.report("churn", tracking_uri=uri)
    (entry,) = report.entries
    assert len(entry.stages) == len(entry.units) == KINDS
    assert report.total.energy_wh == pytest.approx(sum(cost.energy_wh for cost in entry.stages.values()))
    assert entry.status == "FINISHED" and entry.lower_bound is None


@pytest.mark.parametrize("output", ["table", "html"])
def test_a_report_names_the_run_that_cannot_be_read(uri, output):
    done = invoke(uri, "report", "churn", "--format", output)
    assert done.exit_code == 0, done.output
    assert "unreadable, not in the sums: cut: carbon.window is cut" in done.stdout


def test_a_report_for_machines_names_it_too(uri):
    report = json.loads(invoke(uri, "report", "churn", "--format", "json").stdout)
    assert report["unreadable"] == ["cut: carbon.window is cut or has been changed"]
    assert report["unmeasured"] == []


def test_reconcile_names_the_run_and_leaves_it(uri):
    done = invoke(uri, "mlflow", "reconcile")
    assert done.exit_code == 0, done.output
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    assert f"unreadable, not changed: {run.info.run_id}: carbon.window is cut" in done.stderr
    assert "0 runs had been left open" in done.stdout and run.info.status == "RUNNING"
