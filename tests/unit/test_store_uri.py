"""One store has one address, whoever says it, and no password in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from carbon_otel.mlflow.delivery.store_uri import normalised, of_store


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://localhost:5000/", "http://localhost:5000"),
        ("https://me:secret@mlflow.example/base/", "https://me@mlflow.example/base"),
        ("postgresql+psycopg2://me:p%40ss@db:5432/mlflow", "postgresql+psycopg2://me@db:5432/mlflow"),
        ("postgresql://db/mlflow?sslmode=require", "postgresql://db/mlflow?sslmode=require"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///mlflow.db", f"sqlite:///{Path.cwd()}/mlflow.db"),
        ("./mlruns", f"{Path.cwd()}/mlruns"),
        ("databricks", "databricks"),
    ],
)
def test_normalised(uri, address):
    assert normalised(uri) == address
    assert normalised(address) == address


@pytest.mark.parametrize(
    ("store", "address"),
    [
        (SimpleNamespace(db_uri="postgresql://me:secret@db/mlflow"), "postgresql://me@db/mlflow"),
        (
            SimpleNamespace(get_host_creds=lambda: SimpleNamespace(host="http://localhost:5000/")),
            "http://localhost:5000",
        ),
        (SimpleNamespace(root_directory="/data/mlruns"), "/data/mlruns"),
        (SimpleNamespace(), "SimpleNamespace"),
    ],
)
def test_of_a_store(store, address):
    assert of_store(store) == address
