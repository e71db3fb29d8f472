"""The writer's order: what was not written of a run goes before what came later, whatever fails in between."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from carbon_otel import guard
from carbon_otel.mlflow.delivery.spool import Batch, Spool
from carbon_otel.mlflow.delivery.worker import DeliveryWorker
from carbon_otel.mlflow.schema import contributions
from carbon_otel.mlflow.schema.contributions import Contribution
from carbon_otel.mlflow.schema.names import ENERGY_WH

exceptions = (
    pytest.importorskip("mlflow.exceptions")
    if not os.environ.get("CI")
    else __import__("mlflow.exceptions").exceptions
)


def refusal(code):
    return exceptions.RestException({"error_code": code, "message": "no"})


class Store:
    """A tracking store at its `log_batch` and `get_run`; `down` as a server that is gone, `refused` has the
    error codes of runs that it does not take.
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
        return SimpleNamespace(data=data)

    def values(self, run_id):
        return [value for _, value in sorted(self.points[run_id].items())]


@pytest.fixture
def store():
    guard.forget()
    return Store()


class Patient(DeliveryWorker):
    """Waits at `reached` after a failure, until `go`; no time passes."""

    def __init__(self, folder):
        super().__init__(folder)
        self.reached, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def _pause(self, seconds):
        self.reached.release()
        assert self.go.acquire(timeout=20)
        super()._pause(0)

    def has_failed(self):
        return self.reached.acquire(timeout=20)


@pytest.fixture
def writer(tmp_path):
    made = Patient(tmp_path)
    yield made
    made.go.release()
    made.close(20)


def batch(segment, energy_wh, run_id="r", step=0, final=True, resumed=None):
    return Batch(
        run_id=run_id,
        segment=segment,
        values={ENERGY_WH: energy_wh},
        tags={"carbon.status": "final" if final else "running"},
        step=step,
        timestamp_ms=1000 * segment + step,
        part=f"part{segment}",
        resumed=segment > 1 if resumed is None else resumed,
        final=final,
    )


def test_a_segment_that_failed_is_written_before_a_later_one_of_its_run(store, writer):
    store.down = True
    writer.put(batch(1, 5.0), store)
    assert writer.has_failed()
    writer.put(batch(2, 3.0), store)
    writer.put(batch(3, 1.0), store)
    store.down = False
    writer.go.release()
    assert writer.wait(20)
    writer.close(20)
    assert writer.healthy
    assert store.values("r") == [5.0, 8.0, 9.0]
    assert store.tags["r"]["carbon.segments"] == "3"


def test_what_the_server_refuses_of_one_run_holds_up_no_other(store, writer):
    store.down = True
    writer.put(batch(9, 1.0, run_id="first", resumed=False), store)
    assert writer.has_failed()
    writer.put(batch(1, 5.0), store)
    writer.put(batch(2, 3.0), store)
    writer.put(batch(9, 7.0, run_id="other", resumed=False), store)
    store.down, store.refused = False, {"r": "INTERNAL_ERROR"}
    writer.go.release()
    assert writer.has_failed()
    assert store.values("other") == [7.0] and "r" not in store.points
    store.refused = {}
    writer.go.release()
    assert writer.wait(20)
    assert store.values("r") == [5.0, 8.0]


def test_what_is_refused_for_good_is_given_up_and_said(store, writer, caplog):
    store.refused = {"deleted": "INVALID_PARAMETER_VALUE"}
    writer.put(batch(1, 5.0, run_id="deleted"), store)
    writer.put(batch(2, 3.0, resumed=False), store)
    assert writer.wait(20)
    writer.close(20)
    assert writer.healthy
    assert store.values("r") == [3.0]
    assert "run deleted, which is lost" in caplog.text


def test_a_segment_that_begins_while_the_first_is_failing(store, writer):
    log_batch = store.log_batch

    def begin_the_next_and_fail(*args, **kwargs):
        store.log_batch = log_batch
        writer.put(batch(2, 3.0), store)
        raise ConnectionError("refused")

    store.log_batch = begin_the_next_and_fail
    writer.put(batch(1, 5.0), store)
    assert writer.has_failed()
    writer.go.release()
    assert writer.wait(20)
    assert store.values("r") == [5.0, 8.0]


def test_no_checkpoint_is_left_out_and_they_go_together(store, writer):
    store.down = True
    writer.put(batch(1, 1.0, final=False), store)
    assert writer.has_failed()
    for step in range(1, 5):
        writer.put(batch(1, 1.0 + step, step=step, final=step == 4), store)
    store.down = False
    writer.go.release()
    assert writer.wait(20)
    assert store.values("r") == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert store.tags["r"]["carbon.status"] == "final"
    assert store.calls == 2  # the points, then the description


def test_an_answer_that_was_lost_counts_nothing_twice(store, writer):
    """The store took the batch, its answer did not arrive: the writer writes it again."""
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
    writer.go.release()
    assert writer.wait(20)
    assert store.values("r") == [5.0, 8.0]
    assert store.tags["r"]["carbon.segments"] == "2"


def test_an_end_is_not_waited_for_while_the_run_is_described(store, writer):
    describing, go = threading.Event(), threading.Event()

    def get_run(run_id):
        describing.set()
        assert go.wait(20)
        return Store.get_run(store, run_id)

    store.get_run = get_run
    writer.put(batch(1, 5.0), store)
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


def test_what_is_left_at_the_end_goes_before_the_next_process_begins(store, tmp_path, caplog):
    """The first process resumes a run, has an answer lost and ends; the second resumes it once more."""
    store.points["r"] = {(0, 1): 10.0}
    store.tags["r"] = Contribution({ENERGY_WH: 10.0}, final=True).tags("part1")
    first = Patient(tmp_path)
    log_batch = store.log_batch

    def take_and_go_down(*args, **kwargs):
        log_batch(*args, **kwargs)
        store.log_batch, store.down = log_batch, True
        raise TimeoutError("no answer")

    store.log_batch = take_and_go_down
    first.put(batch(2, 3.0), store)
    assert first.has_failed()
    first.put(batch(2, 4.0, step=1), store)
    first.go.release()
    first.close(20)
    assert "carbon-otel mlflow sync" in caplog.text
    (left,) = tmp_path.glob("*.outbox")
    store.down = False
    second = Patient(tmp_path)
    second.put(batch(7, 1.0), store)
    assert second.wait(20)
    second.close(20)
    assert store.values("r") == [10.0, 13.0, 14.0, 15.0]
    assert not left.exists()


def test_what_another_process_has_left_is_kept_though_the_store_does_not_know_it(
    store, tmp_path, monkeypatch
):
    """Another server has come to the address of theirs. After a month nobody is waiting for it."""
    store.refused = {"theirs": "RESOURCE_DOES_NOT_EXIST"}
    box = Spool.create(tmp_path)
    box.put(store.db_uri, batch(1, 5.0, run_id="theirs"))
    box.close()
    for now_s, kept in ((86400.0, 1), (40 * 86400.0, 0)):
        monkeypatch.setattr(
            "carbon_otel.mlflow.delivery.uploader.time", SimpleNamespace(time=lambda now_s=now_s: now_s)
        )
        writer = Patient(tmp_path)
        writer.put(batch(1, 7.0), store)
        assert writer.wait(20)
        writer.close(20)
        assert store.values("r") == [7.0]
        assert len(list(tmp_path.glob("*.outbox"))) == kept


def test_what_is_refused_of_others_does_not_hold_up_ours(store, tmp_path):
    store.refused = {"theirs": "PERMISSION_DENIED"}
    box = Spool.create(tmp_path)
    box.put(store.db_uri, batch(1, 5.0, run_id="theirs"))
    box.put(store.db_uri, batch(2, 4.0, run_id="also theirs", resumed=False))
    box.close()
    writer = Patient(tmp_path)
    writer.put(batch(1, 7.0), store)
    assert writer.wait(20)
    writer.close(20)
    assert store.values("r") == [7.0] and store.values("also theirs") == [4.0]
    (left,) = Spool.left_in(tmp_path)
    assert [row.batch.run_id for row in left.waiting(store.db_uri)] == ["theirs"]
    left.close()


def test_of_another_store_nothing_is_sent(store, tmp_path):
    box = Spool.create(tmp_path)
    box.put("http://elsewhere:5000", batch(1, 5.0))
    box.close()
    other = Patient(tmp_path)
    other.put(batch(1, 7.0, run_id="here"), store)
    assert other.wait(20)
    other.close(20)
    assert set(store.points) == {"here"}
    assert len(list(tmp_path.glob("*.outbox"))) == 1


def test_two_processes_in_one_run_add_up_whoever_ends_last(store, tmp_path):
    """As ranks that share a run by its id do: their checkpoints mix, and each ends while the other goes on."""
    for order in (("one", "other"), ("other", "one")):
        store.points.clear(), store.tags.clear()
        one, other = Patient(tmp_path), Patient(tmp_path)
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
        assert store.tags["r"]["carbon.segments"] == "2" and store.tags["r"]["carbon.status"] == "final"


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


def test_what_nobody_can_make_sense_of_holds_up_nothing(store, tmp_path, caplog):
    """Another version's, say: its step is no number."""
    box = Spool.create(tmp_path)
    box.put(store.db_uri, replace(batch(1, 5.0, run_id="theirs"), step="x"))
    box.close()
    writer = Patient(tmp_path)
    writer.put(batch(1, 7.0), store)
    assert writer.wait(20)
    writer.close(20)
    assert store.values("r") == [7.0] and "cannot be sent" in caplog.text
    assert len(list(tmp_path.glob("*.outbox"))) == 1
