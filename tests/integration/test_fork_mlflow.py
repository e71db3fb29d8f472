"""Children that use MLflow: nothing that a thread of ours holds at the fork stops them."""

from __future__ import annotations

import os

import pytest

from tests.integration.soak import brief_and_long

mlflow = pytest.importorskip("mlflow")

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
]


@brief_and_long("forks", 40, 400)
@pytest.mark.parametrize("kind", ["sqlite", "file", "server"])
@pytest.mark.timeout(900)
def test_a_child_logs_to_mlflow(
    kind, forks, launch, drawing, tmp_path, empty_store, tracking_server, monkeypatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = {"sqlite": empty_store.copy, "file": lambda folder: f"file://{folder}/mlruns"}.get(
        kind, lambda folder: tracking_server.url
    )(tmp_path)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment(f"forks {tmp_path.name}", artifact_location=tmp_path.as_uri())
    program = launch("fork_logs.py", uri, str(drawing.root), str(tmp_path / "state"), experiment, str(forks))
    run_id, counts = program.finish(600).splitlines()
    assert counts == "0 0", program.err
    children = client.get_metric_history(run_id, "child")
    assert sorted(point.value for point in children) == list(range(forks))
    assert client.get_run(run_id).data.metrics["carbon/energy_wh"] > 0
