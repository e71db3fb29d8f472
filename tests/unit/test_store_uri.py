"""A store has the same address in every process, and no password in it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from carbon_otel.mlflow.delivery.store_uri import normalised, of_store, printable


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://localhost:5000/", "http://localhost:5000"),
        ("https://me:secret@mlflow.example/base/", "https://mlflow.example/base"),
        ("https://token@mlflow.example", "https://mlflow.example"),
        ("postgresql+psycopg2://me:p%40ss@db:5432/mlflow", "postgresql+psycopg2://me@db:5432/mlflow"),
        ("postgresql://db/mlflow?sslmode=require", "postgresql://db/mlflow?sslmode=require"),
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///{here}/mlflow.db"),
        ("./mlruns", "{here}/mlruns"),
        ("databricks", "databricks"),
        (
            "postgresql://db/m?user=me&password=hunter2&sslmode=on",
            "postgresql://db/m?user=me&password=***&sslmode=on",
        ),
        ("mysql+pymysql://db/m?passwd=hunter2", "mysql+pymysql://db/m?passwd=***"),
        (
            "mssql+pyodbc:///?odbc_connect=DRIVER=x;PWD=hunter2;SERVER=s",
            "mssql+pyodbc:///?odbc_connect=DRIVER=x;PWD=***;SERVER=s",
        ),
        (
            "mssql+pyodbc://?odbc_connect=A%3Dx%3BPWD%3Dhu%402%3BB%3D1",
            "mssql+pyodbc://?odbc_connect=A%3Dx%3BPWD%3D***%3BB%3D1",
        ),
        ("https://mlflow.example/base?access_token=hunter2", "https://mlflow.example/base?access_token=***"),
        ("postgresql://me:hunt@er2@db/m", "postgresql://me@db/m"),
    ],
)
def test_normalised(uri, address):
    address = address.replace("{here}", str(Path.cwd()))
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


def test_a_message_that_quotes_an_address_is_printable():
    message = "API request to https://me:hunter2@host/api?token=abc failed, see postgresql://u:p%40ss@db/m"
    assert (
        printable(message) == "API request to https://***@host/api?token=*** failed, see postgresql://u@db/m"
    )
    assert printable("no address here: a@b") == "no address here: a@b"
