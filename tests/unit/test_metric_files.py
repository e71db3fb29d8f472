"""MLflow's store of files: nobody reads a metric's file before it has a line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carbon_otel.mlflow.delivery.metric_files import write_first

mlflow = pytest.importorskip("mlflow")
file_store = pytest.importorskip("mlflow.store.tracking.file_store")
KEYS = "carbon/energy_wh", "carbon/training/energy_wh", "system/carbon/power_w"


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return mlflow.MlflowClient(f"file://{tmp_path}/mlruns")


def points(step: int) -> list:
    return [mlflow.entities.Metric(key, 0.5 * step, 1_000 + step, step) for key in KEYS]


def test_the_file_of_a_metric_appears_with_its_first_line(client, tmp_path, monkeypatch):
    run_id = client.create_run("0").info.run_id
    store = client._tracking_client.store
    append = file_store.append_to

    def to_a_file_that_exists(path, line):
        assert Path(path).exists()
        append(path, line)

    monkeypatch.setattr(file_store, "append_to", to_a_file_that_exists)
    for step in range(3):
        store.log_batch(run_id, write_first(store, run_id, points(step)), [], [])
    for key in KEYS:
        history = client.get_metric_history(run_id, key)
        assert [(p.step, p.timestamp, p.value) for p in history] == [
            (s, 1_000 + s, 0.5 * s) for s in range(3)
        ]
    assert client.get_run(run_id).data.metrics == dict.fromkeys(KEYS, 1.0)
    assert not list(tmp_path.rglob("*.carbon_otel"))


def test_a_folder_without_links_gets_its_points_from_mlflow(client, monkeypatch):
    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    run_id = client.create_run("0").info.run_id
    assert write_first(client._tracking_client.store, run_id, points(0)) == points(0)


def test_a_run_that_takes_no_points_gets_none(client, tmp_path):
    run_id = client.create_run("0").info.run_id
    client.delete_run(run_id)
    with pytest.raises(mlflow.MlflowException, match="active"):
        write_first(client._tracking_client.store, run_id, points(0))
    assert not [path for path in tmp_path.rglob("carbon") if path.is_dir()]


def test_another_store_gets_all_points():
    assert write_first(object(), "id", points(0)) == points(0)
