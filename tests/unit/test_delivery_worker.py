"""Delivery to failing stores: the batches of a run stay in order, and no run or store delays another."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from carbon_otel import guard
from carbon_otel.background import Worker
from carbon_otel.mlflow.delivery import worker
from carbon_otel.mlflow.delivery.spool import Batch, LedgerRun, Spool
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.integration import _Delivered
from carbon_otel.mlflow.schema import contributions
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.mlflow.schema.names import ENERGY_WH
from carbon_otel.stages.open_runs import OpenRuns
from tests.fakes.folders import forbid
from tests.integration.processes import wait_for

exceptions = pytest.importorskip("mlflow.exceptions")


def refusal(code):
    return exceptions.RestException({"error_code": code, "message": "no"})


class Store:
    """A tracking store with `log_batch` and `get_run`.

    `down` makes it unreachable; `refused` has the error codes for runs that it does not accept.
    """

    db_uri = "sqlite:////somewhere/mlflow.db"

    def __init__(self):
        self.down = False
        self.refused = {}
        self.points = {}
        self.tags = {}
        self.calls = 0

    def log_batch(self, run_id, metrics, params, tags):
        if self.down:
            raise ConnectionError("refused")
        if run_id in self.refused:
            raise refusal(self.refused[run_id])
        self.calls += 1
        for m in metrics:
            if m.key == ENERGY_WH:
                self.points.setdefault(run_id, {})[m.step, m.timestamp] = m.value
        self.tags.setdefault(run_id, {}).update((t.key, t.value) for t in tags)

    def get_run(self, run_id):
        if self.down:
            raise ConnectionError("refused")
        points = self.points.get(run_id, {})
        metrics = [
            SimpleNamespace(key=ENERGY_WH, value=value, timestamp=timestamp, step=step)
            for (step, timestamp), value in points.items()
        ]
        latest = [max(metrics, key=lambda m: (m.step, m.timestamp))] if metrics else []
        data = SimpleNamespace(
            _metric_objs=latest, metrics={m.key: m.value for m in latest}, tags=self.tags.get(run_id, {})
        )
        return SimpleNamespace(data=data, info=SimpleNamespace(start_time=0))

    def values(self, run_id):
        return [value for _, value in sorted(self.points[run_id].items())]


@pytest.fixture
def store():
    guard.forget()
    return Store()


class Controlled(DeliveryWorker):
    """Retries only when a test requests it; `no_time_passes` prevents other retries."""

    def __init__(self, folder):
        super().__init__(folder)
        self._failures = threading.Semaphore(0)

    def _upload(self, outlet):
        succeeded = super()._upload(outlet)
        if not succeeded:
            self._failures.release()
        return succeeded

    def flush(self, timeout_s):
        self.begin_flush()
        return self.wait(timeout_s)

    def has_failed(self):
        """Wait for one more failure."""
        if not self._failures.acquire(timeout=20):
            return False
        with self._changed:
            return self._changed.wait_for(lambda: not any(o.busy for o in self._outlets.values()), 20)

    def retry(self):
        with self._changed:
            for outlet in self._outlets.values():
                outlet.due = 0.0
            self._changed.notify_all()


@pytest.fixture(autouse=True)
def no_time_passes(monkeypatch):
    monkeypatch.setattr(worker, "_FIRST_PAUSE_S", 3600.0)
    monkeypatch.setattr(worker, "_LONGEST_PAUSE_S", 3600.0)
    monkeypatch.setattr(worker, "_LINGER_S", 0.0)


@pytest.fixture
def writer(tmp_path):
    created = Controlled(tmp_path)
    yield created
    created.close(20)


def batch(segment, energy_wh, run_id="r", step=0, final=True, resumed=None):
    return Batch(
        run_id=run_id,
        segment=segment,
        values={ENERGY_WH: energy_wh},
        tags={"carbon.status": "final" if final else "running"},
        step=step,
        timestamp_ms=1000 * segment + step,
        contribution_id=f"part{segment}",
        resumed=segment > 1 if resumed is None else resumed,
        final=final,
    )


def test_a_state_folder_that_may_not_be_entered_keeps_no_figure_from_a_healthy_store(
    store, tmp_path, monkeypatch, caplog
):
    forbid(tmp_path / "state", monkeypatch)
    writer = Controlled(tmp_path / "state" / "mlflow")
    writer.put(batch(1, 5.0), store)
    assert writer.wait(20)
    writer.close(20)
    assert store.values("r") == [5.0]
    assert "kept in memory only" in caplog.text


def test_a_segment_that_failed_is_written_before_a_later_one_of_its_run(store, writer):
    store.down = True
    writer.put(batch(1, 5.0), store)
    assert writer.has_failed()
    writer.put(batch(2, 3.0), store)
    writer.put(batch(3, 1.0), store)
    store.down = False
    writer.retry()
    assert writer.wait(20)
    writer.close(20)
    assert not writer.is_failing(1)
    assert store.values("r") == [5.0, 8.0, 9.0]
    assert len(contributions.read(store.tags["r"])) == 3


def test_a_temporarily_refused_run_delays_no_other(store, writer):
    store.down = True
    writer.put(batch(9, 1.0, run_id="first", resumed=False), store)
    assert writer.has_failed()
    writer.put(batch(1, 5.0), store)
    writer.put(batch(2, 3.0), store)
    writer.put(batch(9, 7.0, run_id="other", resumed=False), store)
    store.down, store.refused = False, {"r": "INTERNAL_ERROR"}
    writer.retry()
    assert not writer.flush(20)  # without a wait for the refused run
    assert store.values("other") == [7.0] and "r" not in store.points
    assert writer.is_failing(1)
    store.refused = {}
    assert writer.flush(20)
    assert store.values("r") == [5.0, 8.0]


def test_a_permanently_refused_run_is_dropped_with_a_warning(store, writer, caplog):
    store.refused = {"deleted": "INVALID_PARAMETER_VALUE"}
    writer.put(batch(1, 5.0, run_id="deleted"), store)
    writer.put(batch(2, 3.0, resumed=False), store)
    assert writer.wait(20)
    writer.close(20)
    assert not writer.is_failing(1)
    assert store.values("r") == [3.0]
    assert "refused the figures of run deleted" in caplog.text


def test_a_segment_that_begins_while_the_first_is_failing(store, writer):
    log_batch = store.log_batch

    def begin_the_next_and_fail(*args, **kwargs):
        store.log_batch = log_batch
        writer.put(batch(2, 3.0), store)
        raise ConnectionError("refused")

    store.log_batch = begin_the_next_and_fail
    writer.put(batch(1, 5.0), store)
    assert writer.has_failed()
    writer.retry()
    assert writer.wait(20)
    assert store.values("r") == [5.0, 8.0]


def test_every_checkpoint_is_sent_and_they_are_sent_together(store, writer):
    store.down = True
    writer.put(batch(1, 1.0, final=False), store)
    assert writer.has_failed()
    for step in range(1, 5):
        writer.put(batch(1, 1.0 + step, step=step, final=step == 4), store)
    store.down = False
    writer.retry()
    assert writer.wait(20)
    assert store.values("r") == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert store.tags["r"]["carbon.status"] == "final"
    assert store.calls == 1  # with the description


def test_a_lost_answer_counts_nothing_twice(store, writer):
    """The store accepted the batch, but its answer did not arrive, so the worker writes it again."""
    log_batch = store.log_batch
    writer.put(batch(1, 5.0), store)
    assert writer.wait(20)

    def take_and_fail(*args, **kwargs):
        log_batch(*args, **kwargs)
        store.log_batch = log_batch
        raise TimeoutError("no answer")

    store.log_batch = take_and_fail
    writer.put(batch(2, 3.0), store)
    assert writer.has_failed()
    writer.retry()
    assert writer.wait(20)
    assert store.values("r") == [5.0, 8.0]
    assert len(contributions.read(store.tags["r"])) == 2


def test_the_end_of_a_resumed_run_is_not_waited_for_while_the_run_is_described(store, writer):
    describing, go = threading.Event(), threading.Event()
    reads = []

    def get_run(run_id):
        reads.append(run_id)
        if len(reads) == 2:
            describing.set()
            assert go.wait(20)
        return Store.get_run(store, run_id)

    store.get_run = get_run
    writer.put(batch(1, 5.0, resumed=True), store)
    assert describing.wait(20)
    assert writer.wait(20, segment=1) and not writer.wait(0)
    go.set()
    assert writer.wait(20)
    assert store.tags["r"]["mlflow.note.content"].startswith("**Energy and carbon**")


def test_a_users_description_stays(store, writer):
    store.tags["r"] = {"mlflow.note.content": "mine"}
    writer.put(batch(1, 5.0), store)
    assert writer.wait(20)
    assert store.tags["r"]["mlflow.note.content"] == "mine"


def test_batches_left_by_a_process_are_sent_before_those_of_the_next_one(store, tmp_path, caplog):
    """The first process resumes a run, loses an answer and ends; the second resumes the run again."""
    store.points["r"] = {(0, 1): 10.0}
    store.tags["r"] = Contribution({ENERGY_WH: 10.0}, final=True).written("part1")
    first = Controlled(tmp_path)
    log_batch = store.log_batch

    def take_and_go_down(*args, **kwargs):
        log_batch(*args, **kwargs)
        store.log_batch, store.down = log_batch, True
        raise TimeoutError("no answer")

    store.log_batch = take_and_go_down
    first.put(batch(2, 3.0), store)
    assert first.has_failed()
    first.put(batch(2, 4.0, step=1), store)
    first.retry()
    first.close(20)
    assert "carbon-otel mlflow sync" in caplog.text
    (left,) = tmp_path.glob("*.spool")
    store.down = False
    second = Controlled(tmp_path)
    second.put(batch(7, 1.0), store)
    assert second.wait(20)
    second.close(20)
    assert store.values("r") == [10.0, 13.0, 14.0, 15.0]
    assert not left.exists()


def test_batches_of_another_process_that_the_store_does_not_know_are_kept_for_30_days(
    store, tmp_path, monkeypatch
):
    """The address may now lead to a different store."""
    store.refused = {"foreign": "RESOURCE_DOES_NOT_EXIST"}
    box = Spool.create(tmp_path)
    box.put(store.db_uri, batch(1, 5.0, run_id="foreign"))
    box.close()
    for now_s, kept in ((86400.0, 1), (40 * 86400.0, 0)):
        monkeypatch.setattr(
            "carbon_otel.mlflow.delivery.faults.time", SimpleNamespace(time=lambda now_s=now_s: now_s)
        )
        writer = Controlled(tmp_path)
        writer.put(batch(1, 7.0), store)
        assert writer.wait(20)
        writer.close(20)
        assert store.values("r") == [7.0]
        assert len(list(tmp_path.glob("*.spool"))) == kept


def test_a_refusal_for_another_process_does_not_delay_this_one(store, tmp_path):
    store.refused = {"foreign": "PERMISSION_DENIED"}
    box = Spool.create(tmp_path)
    box.put(store.db_uri, batch(1, 5.0, run_id="foreign"))
    box.put(store.db_uri, batch(2, 4.0, run_id="also foreign", resumed=False))
    box.close()
    writer = Controlled(tmp_path)
    writer.put(batch(1, 7.0), store)
    assert writer.wait(20)
    writer.close(20)
    assert store.values("r") == [7.0] and store.values("also foreign") == [4.0]
    (left,) = Spool.left_in(tmp_path)
    assert [row.batch.run_id for row in left.waiting(store.db_uri)] == ["foreign"]
    left.close()


def test_batches_for_another_store_are_not_sent(store, tmp_path):
    box = Spool.create(tmp_path)
    box.put("http://elsewhere:5000", batch(1, 5.0))
    box.close()
    other = Controlled(tmp_path)
    other.put(batch(1, 7.0, run_id="here"), store)
    assert other.wait(20)
    other.close(20)
    assert set(store.points) == {"here"}
    assert len(list(tmp_path.glob("*.spool"))) == 1


def test_two_processes_in_one_run_add_up_in_either_order_of_end(store, tmp_path):
    """Like ranks that share a run by its id: their checkpoints mix, and one ends while the other continues."""
    for order in (("one", "other"), ("other", "one")):
        store.points.clear(), store.tags.clear()
        one, other = Controlled(tmp_path), Controlled(tmp_path)
        writers = {"one": (one, 1, 5.0), "other": (other, 2, 3.0)}
        one.put(batch(1, 1.0, final=False), store)
        assert one.wait(20)
        other.put(batch(2, 0.5, final=False), store)
        assert other.wait(20)
        one.put(batch(1, 2.0, step=1, final=False), store)
        assert one.wait(20)
        for name in order:
            writer, segment, energy_wh = writers[name]
            writer.put(batch(segment, energy_wh, step=2), store)
            assert writer.wait(20)
            writer.close(20)
        assert store.values("r")[-1] == 8.0
        assert len(contributions.read(store.tags["r"])) == 2 and store.tags["r"]["carbon.status"] == "final"


def test_a_run_of_many_kinds_of_stage_is_written_in_several_calls(store, writer):
    values = {ENERGY_WH: 7.0} | {f"carbon/epoch_{number}/energy_wh": 0.01 for number in range(2000)}
    asked = []
    log_batch = store.log_batch

    def count(run_id, metrics, params, tags):
        asked.append((len(metrics), len(tags), max((len(tag.value) for tag in tags), default=0)))
        log_batch(run_id, metrics, params, tags)

    store.log_batch = count
    writer.put(replace(batch(1, 7.0), values=values), store)
    assert writer.wait(20)
    assert all(metrics <= 1000 and tags <= 100 and longest <= 8000 for metrics, tags, longest in asked)
    assert contributions.read(store.tags["r"])["part1"].values == values


def test_a_batch_that_cannot_be_processed_delays_no_other_and_is_kept(store, tmp_path, caplog):
    """For example a batch of another version, whose step is not a number: its line stays in the file."""
    box = Spool.create(tmp_path)
    box.put(store.db_uri, replace(batch(1, 5.0, run_id="foreign"), step="x"))
    box.put(store.db_uri, batch(2, 4.0, run_id="also foreign", resumed=False))
    box.close()
    writer = Controlled(tmp_path)
    writer.put(batch(1, 7.0), store)
    assert writer.wait(20)
    writer.close(20)
    assert store.values("r") == [7.0] and store.values("also foreign") == [4.0]
    assert "1 lines of" in caplog.text and "cannot be read" in caplog.text
    assert len(list(tmp_path.glob("*.spool"))) == 1


def test_a_refused_metric_and_a_refused_tag_affect_no_others(store, writer, caplog):
    log_batch = store.log_batch

    def refuse_some(run_id, metrics, params, tags):
        if any(m.key == "carbon/bad/energy_wh" for m in metrics) or any(
            t.key == "carbon.forecast" for t in tags
        ):
            raise exceptions.MlflowException.invalid_parameter_value("no")
        log_batch(run_id, metrics, params, tags)

    store.log_batch = refuse_some
    bad = replace(batch(1, 5.0), tags={"carbon.status": "final", "carbon.forecast": "x", "carbon.zone": "FR"})
    bad = replace(bad, values={"carbon/one/energy_wh": 1.0, "carbon/bad/energy_wh": 2.0, ENERGY_WH: 5.0})
    writer.put(bad, store)
    assert writer.wait(20)
    assert store.values("r") == [5.0] and store.tags["r"]["carbon.zone"] == "FR"
    assert "'carbon/bad/energy_wh' of run r" in caplog.text and "'carbon.forecast' of run r" in caplog.text
    assert not writer.is_failing(1)


def test_an_error_that_ends_the_upload_at_one_run_does_not_block_the_others(store, writer):
    """A store in this process raises the same error for a bad run as for a dead database."""
    log_batch = store.log_batch

    def fail_at_one(run_id, *args, **kwargs):
        if run_id == "bad":
            raise exceptions.MlflowException("integrity")
        log_batch(run_id, *args, **kwargs)

    store.log_batch = fail_at_one
    writer.put(batch(1, 5.0, run_id="bad"), store)
    assert writer.has_failed()
    writer.put(batch(2, 3.0, resumed=False), store)
    writer.retry()
    assert wait_until(writer, lambda: "r" in store.points)
    assert store.values("r") == [3.0]


def test_a_store_that_hangs_delays_no_other(store, writer):
    asked, go = threading.Event(), threading.Event()
    hanging = Store()
    hanging.db_uri = "sqlite:////elsewhere/mlflow.db"

    def hang(*args, **kwargs):
        asked.set()
        assert go.wait(60)

    hanging.log_batch = hang
    writer.put(batch(1, 1.0, run_id="hanging"), hanging)
    assert asked.wait(20)
    for segment in (2, 3):
        writer.put(batch(segment, 1.0 * segment, run_id=f"r{segment}", resumed=False), store)
        assert writer.wait(20, segment)
    assert store.values("r3") == [3.0]
    go.set()
    assert writer.wait(20)


def test_a_store_that_fails_does_not_postpone_another(store, writer):
    down = Store()
    down.down, down.db_uri = True, "sqlite:////elsewhere/mlflow.db"
    writer.put(batch(1, 1.0, run_id="down"), down)
    assert writer.has_failed()
    writer.put(batch(2, 2.0, resumed=False), store)
    assert writer.wait(20, 2)
    assert not writer.wait(20, 1)  # at once, because its store is failing


class Hanging(Store):
    """A store whose `log_batch` does not return until `go` is set."""

    db_uri = "sqlite:////hanging/mlflow.db"

    def __init__(self):
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def log_batch(self, *args, **kwargs):
        self.asked.set()
        assert self.go.wait(60)
        super().log_batch(*args, **kwargs)


def test_the_ends_of_many_runs_wait_once_for_a_store_that_hangs(store, writer, monkeypatch):
    hanging, waits = Hanging(), []
    wait_for = writer._changed.wait_for
    monkeypatch.setattr(
        writer._changed,
        "wait_for",
        lambda condition, timeout_s: waits.append(condition()) or wait_for(condition, timeout_s),
    )
    for segment in range(1, 6):
        writer.put(batch(segment, 1.0, run_id=f"r{segment}", resumed=False), hanging)
        assert not writer.wait(0.05, segment)
    assert waits == [False, True, True, True, True]
    writer.put(batch(9, 2.0, run_id="healthy", resumed=False), store)
    assert writer.wait(20, 9) and not writer.is_failing(9)
    hanging.go.set()
    assert writer.wait(20)
    assert not writer.is_failing(5) and len(hanging.points) == 5


def test_the_exit_waits_shortly_for_a_store_that_was_late(store, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_FAILED_STORE_S", 0.01)
    hanging, writer = Hanging(), Controlled(tmp_path)
    writer.put(batch(1, 1.0), hanging)
    assert hanging.asked.wait(20) and not writer.wait(0.01, 1)
    writer.put(batch(2, 2.0, run_id="healthy", resumed=False), store)
    began = time.monotonic()
    writer.close(3600)
    assert time.monotonic() - began < 600 and store.values("healthy") == [2.0]
    hanging.go.set()
    assert wait_until(writer, lambda: not writer._threads)


def test_a_batch_of_an_ended_process_that_always_fails_does_not_hold_those_of_this_one(store, tmp_path):
    """A timeout at one run looks like a store that is down."""
    log_batch = store.log_batch

    def time_out_at_one(run_id, *args, **kwargs):
        if run_id == "foreign":
            raise TimeoutError("no answer")
        log_batch(run_id, *args, **kwargs)

    store.log_batch = time_out_at_one
    box = Spool.create(tmp_path)
    box.put(store.db_uri, batch(1, 5.0, run_id="foreign", resumed=False))
    box.close()
    writer = Controlled(tmp_path)
    writer.put(batch(1, 7.0), store)
    assert writer.has_failed()
    writer.retry()
    assert writer.wait(20)
    writer.close(20)
    assert store.values("r") == [7.0]
    assert len(list(tmp_path.glob("*.spool"))) == 1


def test_a_store_that_is_down_is_replaced_by_the_one_that_the_program_uses_now(store, writer):
    """A tracking URI with a new password has the same address."""
    old = Store()
    old.down = True
    writer.put(batch(1, 1.0), old)
    assert writer.has_failed()
    writer.put(batch(2, 2.0, resumed=False, run_id="new"), store)
    writer.retry()
    assert writer.wait(20)
    assert store.values("r") == [1.0] and store.values("new") == [2.0]


def test_a_flush_does_not_wait_for_a_run_that_is_refused_and_tries_it_again(store, writer):
    store.refused = {"bad": "PERMISSION_DENIED"}
    writer.put(batch(1, 1.0, run_id="bad", resumed=False), store)
    writer.put(batch(2, 2.0, resumed=False), store)
    began = time.monotonic()
    assert not writer.flush(3600)
    assert time.monotonic() - began < 600
    assert store.values("r") == [2.0] and writer.is_failing(1) and not writer.is_failing(2)
    store.refused = {}
    assert writer.flush(3600)
    assert store.values("bad") == [1.0]


def test_a_run_that_is_refused_is_not_tried_without_a_pause(store, writer, monkeypatch):
    """Even if the store goes down, or the batches of the run are dropped, when its next try is due."""
    passes = []
    upload = writer._upload
    monkeypatch.setattr(writer, "_upload", lambda outlet: passes.append(outlet) or upload(outlet))
    store.refused = {"bad": "PERMISSION_DENIED"}
    writer.put(batch(1, 1.0, run_id="bad", resumed=False), store)
    assert wait_until(writer, lambda: writer.is_failing(1))
    (outlet,) = writer._outlets.values()
    store.down = True
    writer.put(batch(2, 2.0, resumed=False), store)
    assert writer.has_failed()
    with writer._changed:
        outlet.uploader.faults.retry()
        outlet.again = 0.0
        writer._changed.notify_all()
    store.down = False
    count = len(passes)
    time.sleep(0.1)
    assert len(passes) == count  # the whole store is waited for
    writer._spool.done([1])
    writer.retry()
    assert writer.wait(20)
    assert outlet.again == float("inf") and not outlet.refused


def test_a_deleted_entry_is_made_again(store, writer):
    store.runs = []
    store.get_experiment_by_name = lambda name: SimpleNamespace(experiment_id="7")
    store.search_runs = lambda *args, **kwargs: []
    store.update_run_info = lambda *args: None

    def create_run(**kwargs):
        store.runs.append(f"entry {len(store.runs) + 1}")
        return SimpleNamespace(info=SimpleNamespace(run_id=store.runs[-1]))

    store.create_run = create_run
    window = replace(
        batch(1, 1.0, run_id="", final=False), entry=LedgerRun("e", "inference m", 1), resumed=False
    )
    writer.put(window, store)
    assert writer.wait(20)
    store.refused = {"entry 1": "RESOURCE_DOES_NOT_EXIST"}
    now_ms = int(time.time() * 1000)
    writer.put(replace(window, values={ENERGY_WH: 2.0}, step=1, timestamp_ms=now_ms), store)
    assert not writer.flush(20)
    assert writer.flush(20)
    assert store.values("entry 2") == [2.0]


def test_a_file_of_an_ended_process_with_batches_for_two_stores_is_sent_to_both(store, tmp_path):
    other = Store()
    other.db_uri = "sqlite:////elsewhere/mlflow.db"
    box = Spool.create(tmp_path)
    box.put(store.db_uri, batch(1, 5.0, run_id="left", resumed=False))
    box.put(other.db_uri, batch(2, 6.0, run_id="left", resumed=False))
    box.close()
    writer = Controlled(tmp_path)
    writer.put(batch(1, 7.0), store)
    writer.put(batch(2, 8.0, resumed=False), other)
    assert writer.wait(20)
    writer.close(20)
    assert store.values("left") == [5.0] and other.values("left") == [6.0]
    assert list(tmp_path.iterdir()) == []


def test_the_first_and_the_last_batch_of_a_short_run_are_one_call(store, writer, monkeypatch):
    monkeypatch.setattr(worker, "_LINGER_S", 3600.0)
    writer.put(replace(batch(1, 0.0, final=False), values={}), store)
    writer.put(batch(1, 5.0), store)
    assert writer.wait(20, segment=1)
    assert store.calls == 1 and store.values("r") == [5.0]


def test_a_batch_that_no_thread_waits_for_is_sent_after_the_linger(store, writer, monkeypatch):
    monkeypatch.setattr(worker, "_LINGER_S", 0.01)
    writer.put(batch(1, 5.0), store)
    assert wait_until(writer, lambda: "r" in store.points)


def test_a_hanging_disk_blocks_only_put(store, writer, monkeypatch):
    writing, go = threading.Event(), threading.Event()
    put = Spool.put

    def hang(*args):
        writing.set()
        assert go.wait(60)
        return put(*args)

    monkeypatch.setattr(Spool, "put", hang)
    thread = threading.Thread(target=writer.put, args=(batch(1, 5.0), store))
    thread.start()
    assert writing.wait(20)
    writer.begin()
    assert writer.wait(20, segment=2) and not writer.is_failing(1)
    go.set()
    thread.join(20)
    assert writer.wait(20, segment=1)


def test_a_password_in_an_error_is_not_logged(store, writer, caplog):
    def fail(*args, **kwargs):
        raise ConnectionError("could not connect to postgresql://me:hunter2@db/m?password=hunter2")

    store.log_batch = fail
    writer.put(batch(1, 5.0), store)
    assert writer.has_failed()
    assert "postgresql://me@db/m" in caplog.text and "hunter2" not in caplog.text


def test_the_file_of_waiting_batches_has_no_credentials_and_any_process_with_its_own_sends_it(
    store, tmp_path
):
    def at(host):
        store.get_host_creds = lambda: SimpleNamespace(host=host)
        return store

    store.down = True
    first = Controlled(tmp_path)
    first.put(batch(1, 5.0), at("https://me:hunter2@mlflow.example"))
    assert first.has_failed()
    first.retry()
    first.close(20)
    (left,) = tmp_path.glob("*.spool")
    assert b"hunter2" not in left.read_bytes() and left.stat().st_mode & 0o777 == 0o600
    store.down = False
    second = Controlled(tmp_path)  # as with MLFLOW_TRACKING_USERNAME in its environment
    other = Store()
    other.get_host_creds = lambda: SimpleNamespace(host="https://mlflow.example")
    second.put(batch(2, 6.0, run_id="second", resumed=False), other)
    assert second.wait(20)
    second.close(20)
    assert other.values("r") == [5.0] and not left.exists()


@pytest.mark.parametrize("end", ["flush", "close"])
def test_the_upload_begins_before_anyone_waits_for_it(store, writer, tmp_path, end):
    """A sink that is waited for first may take all of the time."""
    store.down = True
    writer.put(batch(1, 1.0), store)
    assert writer.has_failed()
    store.down = False
    delivery = Worker("delivery of a test")
    pending = getattr(_Delivered(delivery, writer, OpenRuns()), end)(20)
    wait_for(lambda: "r" in store.points)
    if end == "close":
        wait_for(lambda: not list(tmp_path.glob("*.spool")))
    assert pending(20)
    delivery.close()


def test_a_hanging_store_delays_the_end_by_at_most_the_timeout(store, tmp_path, caplog):
    asked, go = threading.Event(), threading.Event()
    log_batch = store.log_batch

    def hang(*args, **kwargs):
        asked.set()
        assert go.wait(60)
        log_batch(*args, **kwargs)

    store.log_batch = hang
    writer = Controlled(tmp_path)
    writer.put(batch(1, 5.0), store)
    assert asked.wait(20)
    writer.close(0.05)
    assert "1 checkpoints of energy have not reached MLflow" in caplog.text
    assert list(Spool.left_in(tmp_path)) == []  # this process still sends the batch
    go.set()
    assert wait_until(writer, lambda: not writer._threads)
    for thread in [t for t in threading.enumerate() if t.name.startswith("carbon_otel upload")]:
        thread.join(20)
    assert store.values("r") == [5.0] and list(tmp_path.iterdir()) == []


def test_without_a_thread_the_end_does_not_wait_and_the_batches_stay(store, tmp_path, monkeypatch, caplog):
    """As at interpreter exit, without an earlier `begin`."""

    def refuse(self):
        raise RuntimeError("can't start new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer = Controlled(tmp_path)
    writer.put(batch(1, 5.0), store)
    writer.close(3600)
    assert "no further thread can be started" in caplog.text
    (left,) = Spool.left_in(tmp_path)
    assert len(left) == 1
    left.close()


def test_uploads_use_a_store_with_separate_connections(store, writer, monkeypatch):
    own = Store()
    monkeypatch.setattr(worker.compat, "separate", lambda given: own if given is store else None)
    writer.put(batch(1, 5.0), store)
    assert writer.wait(20)
    assert own.values("r") == [5.0] and store.points == {}


def test_threads_that_put_at_the_same_time_share_one_file(store, tmp_path):
    writer = Controlled(tmp_path)
    threads = [
        threading.Thread(target=writer.put, args=(batch(n, 1.0, run_id=f"r{n}", resumed=False), store))
        for n in range(1, 9)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert writer.wait(20) and len(store.points) == 8
    assert len(list(tmp_path.iterdir())) == 1
    writer.close(20)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_comes_after_the_end_is_lost_with_a_warning(store, tmp_path, caplog):
    writer = Controlled(tmp_path)
    writer.close(1)
    writer.put(batch(1, 5.0), store)
    assert "came after the end" in caplog.text


def wait_until(writer, condition):
    with writer._changed:
        return writer._changed.wait_for(condition, 20)
