"""Secrets, escapes, formulas and invalid characters in text that was written elsewhere."""

from __future__ import annotations

import csv
import io
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel import guard
from carbon_otel.text import (
    cell,
    command_line,
    hider,
    one_line,
    printable,
    shown,
    storable,
    without_credentials,
)

NEEDLE = "hunter2-Xy9"
FORMS = [
    "https://me:{}@mlflow.example/base",
    "https://me:{}@mlflow.example:8080/base?x=1#y",
    "postgresql+psycopg2://me:{}@db:5432/mlflow",
    "postgresql://:{}@db/mlflow",
    "postgresql://me:pa/ss{}@db/mlflow",
    "postgresql://me:a@b{}@db/mlflow",
    "http://{}abcdefgh@host/",
    "https://host/x?password={}",
    "https://host/x?a=1&access_token={}&b=2",
    "https://host/x?api_key={}#z",
    "https://host/x#token={}",
    "https://account.blob/x?sv=2022&sig={}",
    "https://s3/x?X-Amz-Signature={}&X-Amz-Credential=a",
    "mssql+pyodbc:///?odbc_connect=DRIVER=x;PWD={};SERVER=s",
    "mssql+pyodbc:///?odbc_connect=DRIVER=x;PWD={{a;{}}};SERVER=s",
    "mssql+pyodbc://?odbc_connect=A%3Dx%3BPWD%3D{}%3BB%3D1",
    "host=db password={} user=me",
    "password='a b {}'",
    "Authorization=Bearer {},x=1",
    "Authorization=Bearer%20{}",
    "authorization=Basic {}",
    "x-api-key={}",
    "{{'Authorization': 'Bearer {}'}}",
    '{{"api_key": "{}", "x": 1}}',
    "Authorization: Token {}",
    "X-Auth-Token: {}",
    "{{'Authorization': b'Basic {}'}}",
    "use Bearer {} for it",
    "https://{}@mlflow.example/base",
    "http://{}@127.0.0.1:5000",
    "git+https://{}@github.com/a/b",
    "grpc://{}@collector:4317",
    "http://host/base;jsessionid={}?a=1",
    "http://host/base;a=1;jsessionid={}",
    "http://host/base?PHPSESSID={}&a=1",
    "http://host/base?session_id={}",
    "http://host/base?a=1&sid={}",
    "{{'Cookie': 'a=1; b={}'}}",
    "Set-Cookie: session={}; Path=/",
]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("within", ["{}", "cannot reach '{}': refused", 'see "{}", or ask', "({})"])
def test_no_secret_is_left(form, within):
    text = within.format(form.format(NEEDLE))
    assert NEEDLE not in without_credentials(text)
    assert without_credentials(without_credentials(text)) == without_credentials(text)


@pytest.mark.parametrize(
    "text",
    [
        "run churn (0123): carbon.window is cut",
        "KeyError: 'carbon/energy_wh'",
        "http://127.0.0.1:4318/v1/traces",
        "see http://localhost:5000/#/experiments/0, or ask a@b",
        "sqlite:////data/mlflow.db",
        "http://[::1]:4318",
        "the token is missing; write OTEL_EXPORTER_OTLP_HEADERS",
        "12.5 J of 13 tokens",
        "2026-11-24T13=1.25 2026-11-24T14=0.5",
        "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        "basic authentication is required",
        "postgresql://mlflow@db/mlflow, or ssh://git@host/x",
        "session_id=12 side=left; cookies are not kept",
    ],
)
def test_other_text_is_unchanged(text):
    assert without_credentials(text) == text == one_line(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_PASSWORD", NEEDLE),
        ("DATABRICKS_TOKEN", NEEDLE),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"Authorization={NEEDLE}"),
        ("OTEL_EXPORTER_OTLP_HEADERS", f"a=1,Authorization=Bearer%20{NEEDLE}"),
        ("MLFLOW_TRACKING_URI", f"postgresql://me:{NEEDLE}@db/m"),
        ("HTTPS_PROXY", f"http://me:{NEEDLE}@proxy:3128"),
    ],
)
def test_what_the_environment_keeps_secret_is_hidden_in_any_form(name, value):
    assert NEEDLE not in hider({name: value})(f"a library says >{NEEDLE}< for some reason")


def test_a_password_that_is_a_plain_word_is_hidden_in_addresses_only():
    hide = hider({"MLFLOW_TRACKING_URI": "postgresql://mlflow:mlflow@db/mlflow", "PASSWORD": ""})
    assert hide("carbon-otel mlflow sync to postgresql://mlflow:mlflow@db/mlflow") == (
        "carbon-otel mlflow sync to postgresql://mlflow@db/mlflow"
    )


def test_the_present_folder_is_no_secret(monkeypatch):
    monkeypatch.setenv("PWD", "/home/someone/project")
    assert printable("/home/someone/project/x.py") == "/home/someone/project/x.py"


@pytest.mark.parametrize("safe", [storable, printable, shown])
def test_half_a_surrogate_pair_can_be_encoded(safe):
    assert safe("a\ud800b").encode() == rb"a\ud800b"


@given(st.text())
def test_any_text_is_one_harmless_line(text):
    line = one_line(text)
    line.encode()
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in line) and len(line.splitlines()) <= 1
    assert one_line(line) == line
    storable(text).encode()
    assert "\x00" not in storable(text)
    shown(text)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_cell_stays_a_cell_and_is_no_formula(texts):
    out = io.StringIO()
    csv.writer(out).writerow([cell(text) for text in texts])
    (row,) = csv.reader(io.StringIO(out.getvalue()))
    assert len(row) == len(texts)
    assert not any(text.lstrip()[:1] in set("=+-@") for text in row if text.strip())


def test_emoji_and_other_scripts_stay():
    for name in ("modèle 🏃‍♂️", "模型", "نموذج", "a\u00a0b"):
        assert one_line(name) == storable(name) == name


def raised(message):
    try:
        raise RuntimeError(message)
    except RuntimeError as error:
        return error


@pytest.fixture
def log():
    """What a handler of the application writes, with tracebacks."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    guard.logger.addHandler(handler)
    guard.forget()
    yield out
    guard.logger.removeHandler(handler)
    guard.forget()


def test_a_log_record_has_no_secret_in_its_message_and_its_traceback(log):
    guard.log_fault("writing", raised(f"no answer of https://me:{NEEDLE}@host"))
    guard.log_once("%s cannot be used: %s", f"postgresql://me:{NEEDLE}@db", "?token=" + NEEDLE)
    text = log.getvalue()
    assert NEEDLE not in text
    assert "writing failed" in text and "Traceback" in text and "https://***@host" in text


def test_a_cause_and_a_group_have_none_either(log):
    error = RuntimeError("outer")
    error.__cause__ = raised(f"https://me:{NEEDLE}@host")
    error.add_note(f"password={NEEDLE}") if hasattr(error, "add_note") else None
    guard.log_fault("writing", error)
    assert NEEDLE not in log.getvalue() and "outer" in log.getvalue()


def test_a_name_adds_no_line_to_a_log(log):
    guard.log_once("run %s is lost", "x\nERROR all is lost\x1b[2J\u202e")
    assert log.getvalue() == "WARNING run x\\nERROR all is lost\\x1b[2J\\u202e is lost\n"


def test_a_record_without_secrets_is_as_it_was(caplog):
    guard.forget()
    guard.log_fault("dividing", raised("plain"))
    (record,) = caplog.records
    assert record.exc_info is not None and record.args


def test_a_record_whose_arguments_do_not_fit_raises_nothing(log, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    guard.logger.warning("%d %d", "x")


PIECES = [
    *(":", "=", "&", "?a", "token", "&key", "a.-", "://a:", "://", "-api_key", "x", "bearer ", "basic    "),
    *("'", "{", "password='", "Authorization: ", "?key=", "%3B", "%20", "\x1b"),
]


@pytest.mark.parametrize("piece", PIECES)
def test_a_long_text_takes_time_in_proportion(piece):
    """No pattern goes back over the whole text: 200,000 characters would take minutes."""

    def seconds(characters):
        text = ":=?" + piece * (characters // len(piece))
        begin = time.process_time()
        shown(text)
        return time.process_time() - begin

    assert seconds(200_000) < 40 * max(seconds(20_000), 0.01)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ""),
        (["/usr/bin/python3", "/home/me/train.py", "--epochs", "3"], "python3 train.py --epochs 3"),
        ([r"C:\Python\python.exe", "-m", "train"], "python.exe -m train"),
        (
            ["python", "t.py", "--api-key", NEEDLE, "--max-tokens", "5"],
            "python t.py --api-key *** --max-tokens 5",
        ),
        (["python", "t.py", f"--password={NEEDLE}"], "python t.py --password=***"),
        (["python", "t.py", "--token", "--verbose"], "python t.py --token --verbose"),
        (["python", "t.py", f"postgresql://me:{NEEDLE}@db/x"], "python t.py postgresql://me@db/x"),
        (["python", "-c", "import x\nprint(1)"], r"python -c 'import x\nprint(1)'"),
        (["python", "\x1b[31mred"], r"python \x1b[31mred"),
    ],
)
def test_a_command_line_is_one_line_without_secrets(words, told):
    assert command_line(words) == told


def test_a_long_command_line_is_cut():
    assert len(command_line(["python", "x" * 10_000])) == 500
