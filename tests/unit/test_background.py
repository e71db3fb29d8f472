"""Calls that are submitted while their thread is just submitting one, or cannot start another thread."""

from __future__ import annotations

import threading

import pytest

from carbon_otel.background import Worker


@pytest.fixture
def worker():
    worker = Worker("test worker")
    yield worker
    worker.close()


def test_a_call_that_a_finalizer_submits_during_another_submission(worker):
    """The thread does not wait for its own lock."""
    made = []

    class Key:
        def __hash__(self) -> int:
            worker.submit_latest("other", lambda: made.append("finalizer"))
            return 1

    key = Key()
    thread = threading.Thread(
        target=worker.submit_latest, args=(key, lambda: made.append("call")), daemon=True
    )
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert worker.submit(lambda: None).wait(20)
    assert set(made) == {"finalizer", "call"}


def test_a_call_after_a_failed_start_is_not_left_in_the_queue(worker, monkeypatch):
    worker._renew()  # as in a forked child

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with monkeypatch.context() as exiting:
        exiting.setattr(threading.Thread, "start", refuse)
        for _ in range(2):
            with pytest.raises(RuntimeError):
                worker.submit(lambda: None)
    assert worker.submit(lambda: None).wait(20)
