"""Windows of any size in a real store, and runs in it that cannot be read."""

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
    """A store with a window of 80 kinds of stage in the lineage `churn`, and a run of it with a cut tag."""
    folder = tmp_path_factory.mktemp("unreadable")
    with tracking(empty_store.copy(folder)) as found:
        client = mlflow.MlflowClient()
        client.search_experiments()  # load the store now, because that takes longer than the exit may
        tree = server(folder / "sys")
        carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30, lineage="churn")
        for number in range(KINDS):
            with carbon_otel.stage(f"stage_number_{number}") as stage:
                time.sleep(0.005)  # all at once would exceed the power of a processor
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
    said = "Unreadable, and not in the sums" if output == "html" else "unreadable, not in the sums"
    assert said in done.stdout and "cut: carbon.window is cut" in done.stdout


def test_a_report_as_json_names_it_too(uri):
    report = json.loads(invoke(uri, "report", "churn", "--format", "json").stdout)
    assert report["unreadable"] == ["cut: carbon.window is cut or was changed"]
    assert report["unmeasured"] == []


def test_reconcile_names_the_run_and_leaves_it(uri):
    done = invoke(uri, "mlflow", "reconcile")
    assert done.exit_code == 0, done.output
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    assert f"unreadable, not changed: {run.info.run_id}: carbon.window is cut" in done.stderr
    assert "0 runs were left open" in done.stdout and run.info.status == "RUNNING"
