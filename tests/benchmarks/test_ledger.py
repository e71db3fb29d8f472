"""The time of a report of 10,000 entries.

The entries are copies of one, made in the database, because writing each through MLflow takes 30 ms.
"""

from __future__ import annotations

import sqlite3
import time
from calendar import timegm

import pytest

import carbon_otel
from carbon_otel.mlflow.schema import names
from tests.fakes.replica import Replica
from tests.integration.servers import MlflowServer

mlflow = pytest.importorskip("mlflow")

ENTRIES, REPEATS = 10_000, 5


def one_window(folder, model_run):
    replica = Replica(folder, timegm((2026, 10, 1, 0, 0, 0)))
    window, token = replica.predictions.predicting(None, model_run)
    replica.clock.advance(600)
    replica.predictions.predicted(window, token, rows=10)
    replica.end()


def copy(database):
    """Runs, tags and metrics of the one entry with other ids, an hour apart."""
    with sqlite3.connect(database) as db:
        (run,) = db.execute("select run_uuid from tags where key = ?", (names.ENTRY,)).fetchone()
        for number in range(1, ENTRIES):
            new = f"{number:08x}{run[8:]}"
            for table in ("runs", "tags", "latest_metrics", "metrics"):
                columns = [row[1] for row in db.execute(f"pragma table_info({table})")]
                other = {
                    "run_uuid": "?",
                    "start_time": f"start_time + {number * 3_600_000}",
                }
                if table == "tags":
                    other["value"] = f"case key when '{names.ENTRY}' then value || '-{number}' else value end"
                chosen = [other.get(column, column) for column in columns]
                db.execute(
                    f"insert into {table} ({', '.join(columns)}) select {', '.join(chosen)} from {table} "
                    "where run_uuid = ?",
                    (new, run),
                )


def test_report_of_many_entries(tmp_path, table):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    carbon_otel.instrument(zone="FR")
    experiment = mlflow.create_experiment("churn", artifact_location=tmp_path.as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        pass
    carbon_otel.uninstrument()
    one_window(tmp_path / "outbox", run.info.run_id)
    copy(tmp_path / "mlflow.db")
    server = MlflowServer(tmp_path, uri, workers=2)
    server.start()
    try:
        for where, address in (("on sqlite", uri), ("through an MLflow server", server.url)):
            for _ in range(REPEATS):
                began = time.perf_counter()
                report = carbon_otel.report("churn", tracking_uri=address)
                took_s = time.perf_counter() - began
                table(f"report of {ENTRIES:,} entries {where}", "carbon_otel", took_s, "s")
                assert len(report.entries) == ENTRIES + 1
    finally:
        server.kill()
