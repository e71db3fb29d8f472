"""Shared by all tests: a clean environment, parallel runs, and the rules of the gate."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import carbon_otel
from carbon_otel import journal
from tests.fakes import nvml

REPOSITORY = Path(__file__).parents[1]

# Deterministic by default; `--hypothesis-profile=search` searches for new examples.
_always = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("fixed", _always, max_examples=60, derandomize=True, database=None)
settings.register_profile("search", _always, max_examples=1000)
settings.load_profile("fixed")

# Features of MLflow that are not under test: usage reports, a line on stdout at the end of each run, and seven
# processes of each server that wait for jobs.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")
# MLflow starts uvicorn by name, so the uvicorn of this environment comes first.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])

_OUR_PREFIXES = ("CARBON_OTEL_", "OTEL_")
# `mlflow.set_experiment` and `set_tracking_uri` set these for child processes.
_MLFLOW = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--may-skip",
        action="append",
        default=[],
        metavar="TEXT",
        help="where CI is set, a skip fails unless its reason has this text (may be repeated)",
    )


def pytest_configure() -> None:
    # If a shell starts pytest in the background, pytest ignores SIGINT, and its children inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """No worker for a single file or with `-s`, so that the output appears at once."""
    files = {argument.partition("::")[0] for argument in config.args}
    single_file = len(files) == 1 and files.pop().endswith(".py")
    return 0 if single_file or config.option.capture == "no" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects tests that take an hour or need more libraries, unless asked for; the slowest files come first."""
    for marker in ("soak", "upstream", "apart"):
        # As a marker: the name of a folder is a keyword, too.
        long = [item for item in items if item.get_closest_marker(marker)]
        if long and marker not in config.option.markexpr:
            config.hook.pytest_deselected(items=long)
            items[:] = [item for item in items if not item.get_closest_marker(marker)]
    slow_files = {item.path for item in items if "chaos" in item.keywords}
    items.sort(key=lambda item: item.path not in slow_files)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and "gpu" not in item.keywords:
        _refuse_skip(item.config, report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    report = yield
    if report.skipped:
        _refuse_skip(collector.config, report)
    return report


def _refuse_skip(config: pytest.Config, report: pytest.TestReport | pytest.CollectReport) -> None:
    """Fails a skip in the gate: its machine has every component except a GPU, so a skip hides a missing one."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    expected = any(text in reason for text in config.getoption("--may-skip"))
    if os.environ.get("CI") and sys.platform == "linux" and not expected:
        report.outcome = "failed"
        report.longrepr = f"skipped although CI is set: {reason}"


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory):
    """Session and module fixtures see no settings of the caller and share no folder with other workers."""
    with pytest.MonkeyPatch.context() as patch:
        _clean(patch)
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("CARBON_OTEL_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        # MLflow creates its default store and its folder of artifacts in the working folder.
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        yield


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """A test sees no settings of the caller, no GPU and no other measured process, and leaves no session."""
    _clean(monkeypatch)
    monkeypatch.setenv("CARBON_OTEL_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    yield
    carbon_otel.uninstrument()
    journal._forget()  # the next measurement would go on with the file of this test
    # A forecast waits for its run beyond the measurement: it would be compared with a run of the next test.
    watch = sys.modules.get("carbon_otel.foresight.watch")
    if watch is not None:
        watch._waiting.clear()


def _clean(patch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(_OUR_PREFIXES) or name in _MLFLOW]:
        patch.delenv(name)
    patch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def clean_checkout():
    """A test leaves no file at the top of the repository."""
    before = _visible_files()
    yield
    left = _visible_files() - before
    assert not left, f"the test, or one that ran beside it, left {sorted(left)} in {REPOSITORY}"


def _visible_files() -> set[str]:
    return {name for name in os.listdir(REPOSITORY) if not name.startswith(".")}  # noqa: PTH208 - 1 us a test


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled stub of libnvidia-ml."""
    try:
        return nvml.build(tmp_path_factory.mktemp("nvml"))
    except FileNotFoundError:
        pytest.skip("gcc is not installed")
