"""No password, token or signature of any address or variable is in anything that carbon_otel writes."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback

import pytest
from typer.testing import CliRunner

from carbon_otel.cli import app
from tests.integration.processes import PROGRAMS

mlflow = pytest.importorskip("mlflow")

# Each in one setting, so that a leak names its source.
NEEDLES = {
    name: f"n33dle-{name}"
    for name in ("userinfo", "query", "headers", "endpoint", "proxy", "store", "trace", "token", "exception")
}


@pytest.fixture
def variables(tmp_path, refusing):
    """An environment with a secret in every address and variable that may have one."""
    host = refusing.removeprefix("http://")
    return {
        "MLFLOW_TRACKING_URI": f"http://me:{NEEDLES['userinfo']}@{host}/base?token={NEEDLES['query']}",
        "MLFLOW_TRACKING_TOKEN": NEEDLES["token"],
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://me:{NEEDLES['endpoint']}@{host}?sig={NEEDLES['query']}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"Authorization=Bearer%20{NEEDLES['headers']}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "HTTPS_PROXY": f"http://me:{NEEDLES['proxy']}@{host}",
        "CARBON_OTEL_TRACE_URL": f"https://me:{NEEDLES['trace']}@traces/{{trace_id}}?api_key={NEEDLES['trace']}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "COLUMNS": "400",
    }


def leaks(*texts: str) -> list[str]:
    return [name for name, needle in NEEDLES.items() if any(needle in text for text in texts)]


POSTGRES = f"postgresql+psycopg2://me:{NEEDLES['store']}@127.0.0.1:1/m?password={NEEDLES['store']}"
COMMANDS = [
    ("doctor",),
    ("doctor", "--json"),
    ("collector", "check"),
    ("collector", "check", "--json"),
    ("mlflow", "sync"),
    ("mlflow", "reconcile"),
    ("report", "churn"),
    ("report", "churn", "--format", "json"),
    ("compare", "--experiment", "churn"),
    ("compare", "a", "b"),
    *(
        (*command, "--tracking-uri", uri)
        for command in (("mlflow", "sync"), ("report", "x"), ("compare", "a", "b"), ("mlflow", "reconcile"))
        for uri in (
            f"sqlite:////nowhere/x.db?password={NEEDLES['store']}",
            f"nowhere://me:{NEEDLES['store']}@h",
        )
    ),
    ("mlflow", "sync", "--waiting-for", POSTGRES),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_prints_a_secret(command, variables, caplog, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, command)
    assert leaks(done.stdout, done.stderr, caplog.text) == []
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception


def test_a_crash_of_a_command_prints_no_secret(variables, tmp_path):
    program = (
        "import sys, carbon_otel.cli as cli\n"
        "@cli.app.command()\n"
        "def crash(): raise RuntimeError(sys.argv[-1])\n"
        "cli.app(['crash'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, POSTGRES],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "RuntimeError" in done.stderr and done.returncode == 1
    assert leaks(done.stdout, done.stderr) == []


def test_a_program_leaves_no_secret_in_its_logs_tags_spans_and_files(
    variables, tmp_path, empty_store, monkeypatch
):
    store = empty_store.copy(tmp_path)
    address = f"https://me:{NEEDLES['exception']}@mlflow/api?token={NEEDLES['exception']}"
    done = subprocess.run(
        [
            *(sys.executable, str(PROGRAMS / "needles.py")),
            f"{store}?timeout=20",
            variables["CARBON_OTEL_TRACE_URL"],
            address,
        ],
        env={**os.environ, **{name: value for name, value in variables.items() if "URI" not in name}},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "carbon.trace_url" in done.stdout and "does not accept the figures" in done.stdout
    assert '"carbon_otel.stage.kind": "training"' in done.stdout and "exception.stacktrace" in done.stdout
    ours = [line for line in done.stderr.splitlines() if "carbon_otel" in line]
    files = [
        path.read_bytes().decode(errors="replace")
        for path in (tmp_path / "state").rglob("*")
        if path.is_file()
    ]
    assert files
    for text in (*done.stdout.splitlines(), *ours, *files):
        assert leaks(text) == [], text


@pytest.mark.parametrize("uri", [None, f"nowhere://me:{NEEDLES['store']}@h", "http://{}@{}/base"])
def test_an_error_of_report_quotes_no_secret(uri, variables, refusing, monkeypatch):
    import carbon_otel

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if uri is not None:
        uri = uri.format(NEEDLES["store"], refusing.removeprefix("http://"))
    with pytest.raises(mlflow.MlflowException) as caught:
        carbon_otel.report("churn", tracking_uri=uri)
    assert leaks("".join(traceback.format_exception(caught.value)), repr(caught.value)) == []


def test_an_error_in_a_setting_quotes_no_secret(monkeypatch):
    import carbon_otel

    with pytest.raises(ValueError, match="trace_url") as caught:
        carbon_otel.instrument(trace_url=f"https://me:{NEEDLES['trace']}@host/without-a-placeholder")
    assert leaks(str(caught.value)) == []
