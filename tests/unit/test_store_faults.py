"""Whatever a store does at one run or entry, the others of the same store arrive."""

from __future__ import annotations

import itertools
import re
from types import SimpleNamespace

import pytest

from carbon_otel import guard
from carbon_otel.mlflow.delivery import faults
from carbon_otel.mlflow.delivery.faults import Faults
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool
from carbon_otel.mlflow.delivery.uploader import Uploader
from carbon_otel.mlflow.schema.names import ENERGY_WH

exceptions = pytest.importorskip("mlflow.exceptions")

ADDRESS = "http://store"
# As many calls as a minute has with their growing pauses.
PASSES = 5


class OddError(Exception):
    """Of a plugin, for example."""


ERRORS = {
    **{
        code: exceptions.RestException({"error_code": code, "message": "no"})
        for code in (
            "INVALID_PARAMETER_VALUE",
            "RESOURCE_DOES_NOT_EXIST",
            "PERMISSION_DENIED",
            "INTERNAL_ERROR",
            "TEMPORARILY_UNAVAILABLE",
            "UNAUTHENTICATED",
        )
    },
    "no meta.yaml": exceptions.MissingConfigException("Yaml file 'meta.yaml' does not exist."),
    "broken yaml": exceptions.MlflowException("integrity"),
    "database": exceptions.MlflowException("disk I/O error", error_code=8),
    "no connection": ConnectionError("refused"),
    "no answer": TimeoutError("timed out"),
    "no rights": PermissionError(13, "Permission denied"),
    "odd": OddError("?"),
    "bug": TypeError("?"),
    "no memory": MemoryError(),
    "key": KeyError("run"),
}
# The methods at which the store fails, by kind of item.
OF_RUNS = ("log_batch", "get_run")
OF_ENTRIES = ("search_runs", "create_run", "log_batch", "update_run_info")
OF_THE_LEDGER = ("get_experiment_by_name", "create_experiment")


class Store:
    """A store that fails at `method`, if one of its arguments contains `bad`."""

    def __init__(self, method, error, bad):
        self.method, self.error, self.bad = method, error, bad
        self.metrics = {}
        self.ended = set()
        self.entries = {}

    def _check(self, method, *arguments):
        if method == self.method and self.bad in repr(arguments):
            raise self.error

    def log_batch(self, run_id, metrics, params, tags):
        self._check("log_batch", run_id)
        self.metrics.setdefault(run_id, {}).update((m.key, m.value) for m in metrics)

    def get_run(self, run_id):
        self._check("get_run", run_id)
        data = SimpleNamespace(_metric_objs=[], metrics=self.metrics.get(run_id, {}), tags={})
        return SimpleNamespace(data=data, info=SimpleNamespace(experiment_id="1"))

    def get_experiment_by_name(self, name):
        self._check("get_experiment_by_name", name)

    def create_experiment(self, name, artifact_location, tags):
        self._check("create_experiment", name)
        return "7"

    def search_runs(self, experiment_ids, filter_string, run_view_type, max_results):
        self._check("search_runs", filter_string)
        entry_id = re.search("'(.*)'", filter_string)[1]
        return [SimpleNamespace(info=SimpleNamespace(run_id=entry_id))] if entry_id in self.entries else []

    def create_run(self, experiment_id, user_id, start_time, tags, run_name):
        entry_id = next(tag.value for tag in tags if tag.key == "carbon.entry_id")
        self._check("create_run", entry_id)
        self.entries[entry_id] = {tag.key: tag.value for tag in tags}
        return SimpleNamespace(info=SimpleNamespace(run_id=entry_id))

    def update_run_info(self, run_id, run_status, end_time, run_name):
        self._check("update_run_info", run_id)
        self.ended.add(run_id)

    def get_logged_model(self, model_id):
        self._check("get_logged_model", model_id)
        return SimpleNamespace(source_run_id="source")


class Bench:
    def __init__(self):
        self.spool = Spool()
        self.now = 1000.0
        self.segments = itertools.count(1)

    def put(self, key, entry=False, model_id=None):
        number = next(self.segments)
        ledger_run = LedgerRun(key, f"entry {key}", 1, model_id) if entry else None
        self.spool.put(
            ADDRESS,
            Batch(
                run_id="" if entry else key,
                segment=number,
                values={ENERGY_WH: float(number)},
                tags={},
                step=0,
                timestamp_ms=faults_now_ms(),
                contribution_id="" if entry else f"part{number}",
                final=True,
                entry=ledger_run,
            ),
        )

    def send(self, uploader, passes=PASSES):
        """Call it again and again, as the worker does; returns how often the store counted as down."""
        down = 0
        for _ in range(passes):
            try:
                uploader.send(self.spool, ADDRESS)
            except Exception:
                down += 1
            self.now += 30
        return down

    def uploader(self, store):
        made = Uploader(store)
        made.faults = Faults(clock=lambda: self.now)
        return made


def faults_now_ms():
    return int(faults.time.time() * 1000)


@pytest.fixture
def bench():
    guard.forget()
    return Bench()


def arrived(store, *keys):
    return [key for key in keys if store.metrics.get(key, {}).get(ENERGY_WH)]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", OF_RUNS)
def test_a_run_that_the_store_does_not_accept(method, error, bench, caplog):
    store = Store(method, ERRORS[error], "bad")
    uploader = bench.uploader(store)
    for key in ("before", "bad", "after", "last"):
        bench.put(key)
    bench.put("entry", entry=True)
    assert bench.send(uploader) <= 1
    assert len(arrived(store, "before", "after", "last", "entry")) == 4
    assert set(uploader.faults) == {"bad"} and len(bench.spool) == 1
    bench.put("new")
    assert bench.send(uploader, 1) == 0 and arrived(store, "new")
    assert [
        record.getMessage().count("run bad") for record in caplog.records if record.levelname == "WARNING"
    ] == [1]
    store.method = None  # it has become possible
    uploader.faults.retry()
    assert bench.send(uploader, 1) == 0
    assert arrived(store, "bad") and len(bench.spool) == 0 and not uploader.faults


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", OF_ENTRIES)
def test_an_entry_that_the_store_does_not_accept(method, error, bench):
    store = Store(method, ERRORS[error], "bad")
    uploader = bench.uploader(store)
    for key in ("before", "bad", "after"):
        bench.put(key, entry=True)
    bench.put("run")
    assert bench.send(uploader) <= 1
    assert len(arrived(store, "before", "after", "run")) == 3 and {"before", "after"} <= store.ended
    store.method = None
    uploader.faults.retry()
    bench.send(uploader, 1)
    assert "bad" in store.ended and len(bench.spool) == 0


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", OF_THE_LEDGER)
def test_a_store_without_a_ledger(method, error, bench):
    store = Store(method, ERRORS[error], "carbon-ledger")
    uploader = bench.uploader(store)
    for number in range(4):
        bench.put(f"entry {number}", entry=True)
        bench.put(f"run {number}")
    bench.send(uploader)
    assert len(arrived(store, *(f"run {number}" for number in range(4)))) == 4
    store.method = None
    uploader.faults.retry()
    bench.send(uploader, 1)
    assert len(store.ended) == 4


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("method", ["get_logged_model", "get_run"])
def test_an_entry_goes_without_its_model_if_that_cannot_be_read(method, error, bench):
    store = Store(method, ERRORS[error], "broken" if method == "get_logged_model" else "source")
    uploader = bench.uploader(store)
    bench.put("entry", entry=True, model_id="broken")
    bench.put("run")
    bench.send(uploader)
    assert arrived(store, "run")
    if faults.is_unreachable(ERRORS[error]):
        store.method = None
        uploader.faults.retry()
        bench.send(uploader, 1)
    assert arrived(store, "entry")


@pytest.mark.parametrize("error", ERRORS)
def test_many_bad_runs_in_front_of_a_good_one(error, bench):
    store = Store("log_batch", ERRORS[error], "bad")
    uploader = bench.uploader(store)
    for number in range(20):
        bench.put(f"bad {number}")
    bench.put("good")
    bench.send(uploader, 25)
    assert arrived(store, "good")


@pytest.mark.parametrize("error", ERRORS)
def test_a_store_that_was_down_gets_everything_as_soon_as_it_is_up(error, bench):
    store = Store("log_batch", ERRORS[error], "")
    uploader = bench.uploader(store)
    keys = [f"run {number}" for number in range(10)]
    for key in keys:
        bench.put(key)
    bench.send(uploader, 4)
    store.method = None
    bench.now += faults._ASIDE_S
    assert bench.send(uploader, 1) == 0
    assert arrived(store, *keys) == keys and len(bench.spool) == 0


def test_a_store_that_accepts_nothing_for_a_second_is_asked_no_more(bench, monkeypatch):
    monkeypatch.setattr(
        "carbon_otel.mlflow.delivery.uploader.clock", SimpleNamespace(monotonic=lambda: bench.now)
    )
    store = Store("log_batch", ERRORS["INTERNAL_ERROR"], "")
    asked = []

    def log_batch(run_id, **_):
        asked.append(run_id)
        bench.now += 0.4
        raise store.error

    store.log_batch = log_batch
    for number in range(100):
        bench.put(f"run {number}")
    uploader = bench.uploader(store)
    with pytest.raises(exceptions.RestException):
        uploader.send(bench.spool, ADDRESS)
    assert asked == ["run 0", "run 1", "run 2"]
    with pytest.raises(exceptions.RestException):
        uploader.send(bench.spool, ADDRESS)
    assert asked[3:] == ["run 3", "run 4", "run 5"]  # one of the first may be the reason
    assert not uploader.faults


def test_tries_are_bounded(bench):
    store = Store("log_batch", ERRORS["PERMISSION_DENIED"], "bad")
    asked = []
    check = store._check
    store._check = lambda method, run_id: (asked.append(run_id), check(method, run_id))
    bench.put("bad")
    uploader = bench.uploader(store)
    for _ in range(3600):
        uploader.send(bench.spool, ADDRESS)
        bench.now += 1
    # Each try is two calls: the second one asks whether the run or a figure is refused.
    assert asked.count("bad") <= 2 * (5 + 3600 / 300)


def test_a_run_for_which_a_thread_waits_comes_first(bench):
    store = Store(None, None, "")
    for number in range(1000):
        bench.put(f"run {number}")
    order = []
    log_batch = store.log_batch

    def log(run_id, **arguments):
        order.append(run_id)
        log_batch(run_id, **arguments)

    store.log_batch = log
    waiting = set()

    def urgent():
        if len(order) == 5:
            waiting.add(901)  # the segment of run 900
        return waiting

    bench.uploader(store).send(bench.spool, ADDRESS, urgent)
    assert order.index("run 900") <= 6
    assert len(set(order)) == 1000


def test_a_dead_store_uses_up_no_room_of_another(monkeypatch):
    monkeypatch.setattr("carbon_otel.mlflow.delivery.spool.LIMIT", 50)
    spool = Spool()

    def put(address, number):
        batch = Batch(
            f"{address} {number}", number, {ENERGY_WH: 1.0}, {}, 0, 1000, f"part{number}", final=True
        )
        spool.put(address, batch)

    for number in range(40):
        put("healthy", number)
    for number in range(100, 1100):
        put("dead", number)
    assert spool.addresses() == {"healthy": 40, "dead": 50}
