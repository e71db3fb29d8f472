"""Which of the runs that threads, tasks and contexts have begun are at work, and which is meant where."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from carbon_otel.stages import run_lines
from carbon_otel.stages.run_lines import RunLines


class Tracker:
    """Runs whose stages are their ids."""

    def __init__(self) -> None:
        self._threads = threading.local()
        self.lines = RunLines(lambda: list(reversed(self.stack)))

    @property
    def stack(self) -> list[str]:
        return self._threads.__dict__.setdefault("stack", [])

    def create(self, run_id, outer=None, *, here=True):
        self.lines.begin(run_id, outer, None, here=here)
        run = self.lines._runs[run_id]
        run.stage = run.stage or run_id

    def enter(self, run_id):
        self.create(run_id)
        self.lines.enter(run_id)
        self.stack.append(run_id)

    def leave(self):
        self.lines.end(self.stack.pop())

    @property
    def at_work(self) -> set[str]:
        self.lines.bury()
        return {run.id for run in self.lines._runs.values() if run.at_work}

    def here(self):
        run = self.lines.active()
        return run.id if run is not None else self.lines.entered()


@pytest.fixture
def tracker():
    """In a context of its own."""
    return Tracker()


@pytest.fixture
def other():
    with ThreadPoolExecutor(1) as pool:
        yield lambda *call: pool.submit(*call).result()


def test_the_tracker_s_active_run_wins_over_the_one_of_the_context(tracker, other):
    before = contextvars.copy_context()
    tracker.enter("here")
    other(tracker.enter, "there")
    assert before.run(tracker.here) == "here"
    assert other(tracker.here) == "there"
    assert other(contextvars.copy_context().run, tracker.here) == "there"


def test_a_copied_context_in_another_thread_has_the_run_that_was_entered_last(tracker, other):
    tracker.enter("outer")
    tracker.enter("inner")
    copy = contextvars.copy_context()
    assert other(copy.run, tracker.here) == "inner"
    tracker.leave()
    assert other(copy.run, tracker.here) == "outer"
    tracker.leave()
    assert other(copy.run, tracker.here) is None


def test_of_several_runs_of_a_client_none_is_at_work_until_one_is_left_or_entered(tracker, other):
    tracker.create("a")
    assert (tracker.at_work, tracker.here()) == ({"a"}, "a")
    tracker.create("b")
    assert (tracker.at_work, tracker.here()) == (set(), False)
    tracker.enter("b")
    assert (tracker.at_work, tracker.here()) == ({"b"}, "b")
    tracker.leave()
    assert (tracker.at_work, tracker.here()) == ({"a"}, "a")


def test_a_run_that_another_thread_enters_leaves_the_other_one_to_its_line(tracker, other):
    tracker.create("a")
    tracker.create("b")
    other(tracker.enter, "b")
    assert tracker.at_work == {"a", "b"}
    assert (tracker.here(), other(tracker.here)) == ("a", "b")


def test_a_side_run_is_at_work_only_when_it_is_alone(tracker):
    tracker.enter("run")
    tracker.create("side")
    assert tracker.at_work == {"run"}
    tracker.leave()
    assert tracker.at_work == {"side"}
    tracker.create("next")
    assert tracker.at_work == {"next"}


def test_a_nested_run_takes_the_place_of_its_outer_one_while_it_is_the_only_one(tracker):
    tracker.enter("outer")
    tracker.create("a", "outer")
    assert (tracker.at_work, tracker.here()) == ({"a"}, "a")
    tracker.create("b", "outer")
    assert (tracker.at_work, tracker.here()) == ({"outer"}, "outer")
    tracker.lines.end("a")
    assert (tracker.at_work, tracker.here()) == ({"b"}, "b")


def test_a_run_whose_outer_one_has_ended_is_nested_in_the_next(tracker):
    tracker.create("a")
    tracker.create("b", "a")
    tracker.create("c", "b")
    tracker.lines.end("b")
    assert tracker.at_work == {"c"}
    tracker.lines.end("c")
    assert tracker.at_work == {"a"}


def test_the_runs_of_an_ended_thread_are_at_work_only_when_all_others_have_ended(tracker):
    with ThreadPoolExecutor(1) as pool:
        pool.submit(tracker.enter, "abandoned").result()
        assert tracker.at_work == {"abandoned"}
    tracker.enter("mine")
    assert tracker.at_work == {"mine"}
    tracker.leave()
    assert tracker.at_work == {"abandoned"}
    tracker.lines.end("abandoned")
    assert tracker.at_work == set()


def test_a_run_that_the_tracker_has_left_without_an_end_is_not_entered_any_more(tracker):
    tracker.enter("first")
    tracker.stack.pop()  # its end has failed
    tracker.enter("second")
    assert (tracker.at_work, tracker.here()) == ({"second"}, "second")
    tracker.leave()
    assert tracker.at_work == {"first"}


def test_each_task_has_its_own_run(tracker):
    async def task(name):
        tracker.create(name)
        await asyncio.sleep(0)
        assert tracker.at_work == {"a", "b", "c"}
        await asyncio.sleep(0)
        return name, tracker.here(), await asyncio.to_thread(tracker.here)

    async def main():
        return await asyncio.gather(*map(task, "abc"))

    assert asyncio.run(main()) == [(name, name, name) for name in "abc"]


def test_a_run_that_was_begun_elsewhere_is_entered_where_the_tracker_has_it(tracker, other):
    tracker.create("found", here=False)
    tracker.enter("mine")
    assert tracker.at_work == {"mine"}
    other(lambda: tracker.stack.append("found"))
    run = other(tracker.lines.active)
    assert (run.id, run.entered) == ("found", False)


def test_the_end_of_a_thread_is_noticed_whatever_arrives_at_it(tracker):
    """Python ignores what a callback of a weak reference raises: no code of ours may run in it."""
    called = []
    owner = run_lines._Token()
    tracker.lines._line_of(owner)

    def trace(frame, event, argument):
        called.append(frame.f_code.co_name)

    sys.setprofile(trace)
    try:
        del owner
    finally:
        sys.setprofile(None)
    assert called == ["test_the_end_of_a_thread_is_noticed_whatever_arrives_at_it"] * len(called)
    assert len(tracker.lines.over) == 1 and tracker.lines.bury() == [] and not tracker.lines._lines
