"""`carbon-otel mlflow`: one bad file and one bad run delay no other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from carbon_otel.cli import app, mlflow
from carbon_otel.mlflow.delivery.batch import Batch
from carbon_otel.mlflow.delivery.spool import Spool
from carbon_otel.mlflow.runs.orphans import Orphan, Orphans

pytest.importorskip("mlflow")

ADDRESS = "http://store"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The state folder of these commands, whose store is a fake."""
    monkeypatch.setenv("CARBON_OTEL_STATE_DIR", str(tmp_path))
    store = SimpleNamespace(get_host_creds=lambda: SimpleNamespace(host=ADDRESS))
    client = SimpleNamespace(_tracking_client=SimpleNamespace(store=store))
    monkeypatch.setattr(mlflow, "client_of", lambda uri: (client, ADDRESS))
    return tmp_path / "mlflow"


def left_behind(folder, run_id):
    spool = Spool.create(folder)
    spool.put(ADDRESS, Batch(run_id, 1, {"carbon/energy_wh": 1.0}, {}, 0, 1))
    spool.close()


@pytest.mark.parametrize("bad", ["a", "b"])
def test_sync_sends_the_other_files(folder, monkeypatch, bad):
    for run_id in ("a", "b"):
        left_behind(folder, run_id)

    def send(self, spool, address):
        (waiting,) = spool.waiting(address)
        if waiting.batch.run_id == bad:
            raise RuntimeError("no\nsuch thing")
        spool.done([waiting.number])
        return 1

    monkeypatch.setattr(mlflow.Uploader, "send", send)
    done = CliRunner().invoke(app, ["mlflow", "sync"])
    assert done.exit_code == 1
    assert "1 checkpoints sent" in done.stdout and "1 are not accepted now; they are kept: no" in done.stderr


def test_sync_stops_at_a_store_that_cannot_be_reached(folder, monkeypatch):
    tried = []
    for run_id in ("a", "b"):
        left_behind(folder, run_id)

    def send(self, spool, address):
        tried.append(spool)
        raise ConnectionError("refused")

    monkeypatch.setattr(mlflow.Uploader, "send", send)
    done = CliRunner().invoke(app, ["mlflow", "sync"])
    assert done.exit_code == 1 and len(tried) == 1 and "refused" in done.stderr


@pytest.mark.usefixtures("folder")
def test_sync_says_so_where_the_store_has_no_credentials(folder, monkeypatch):
    def fail():
        raise RuntimeError("no profile\nand a page of help")

    store = SimpleNamespace(get_host_creds=fail)
    client = SimpleNamespace(_tracking_client=SimpleNamespace(store=store))
    monkeypatch.setattr(mlflow, "client_of", lambda uri: (client, "databricks://profile"))
    done = CliRunner().invoke(app, ["mlflow", "sync"])
    assert done.exit_code == 1
    assert "databricks://profile cannot be used: no profile" in done.stderr and "page" not in done.stderr


def test_reconcile_ends_the_other_runs(folder, monkeypatch):
    found = Orphans([Orphan("bad", 1.0), Orphan("good", 1.0)], [])
    monkeypatch.setattr(mlflow.orphans, "find", lambda client: found)

    def end(client, orphan):
        if orphan.run_id == "bad":
            raise RuntimeError("no\x1b[2J")

    monkeypatch.setattr(mlflow.orphans, "end", end)
    done = CliRunner().invoke(app, ["mlflow", "reconcile"])
    assert done.exit_code == 1
    assert "good marked as KILLED" in done.stdout
    assert "bad cannot be marked as KILLED: no\\x1b[2J" in done.stderr
