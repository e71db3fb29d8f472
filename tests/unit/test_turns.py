"""Turns at the books: what exceptions break off is restored before the next change."""

from __future__ import annotations

import threading
from threading import get_ident

import pytest

from carbon_otel.stages import turns as module
from carbon_otel.stages.turns import Turns
from tests.unit.test_interrupted_stage import bytecodes, counted


class Books:
    """Books that a change leaves wrong until they are restored."""

    def __init__(self) -> None:
        self.right = True
        self.found: list[bool] = []
        self.turns = Turns(self.restore, [Books.change.__code__, Books.change_slowly.__code__])

    def restore(self) -> None:
        self.right = True

    def change(self) -> None:
        here, turns = get_ident(), self.turns
        try:
            turns.busy.add(here)
            turns.take(here)
            assert self.right
            self.right = False
            raise KeyboardInterrupt
        except BaseException:
            turns.give_up(here)
            raise

    def change_slowly(self, begun: threading.Event, go_on: threading.Event) -> None:
        here, turns = get_ident(), self.turns
        turns.busy.add(here)
        turns.take(here)
        begun.set()
        go_on.wait(60)
        turns.give()
        turns.busy.discard(here)

    def change_elsewhere(self) -> threading.Thread:
        """Take a turn on another thread, and see that the books are right."""

        def take() -> None:
            self.turns.take(get_ident())
            self.found.append(self.right)
            self.turns.give()

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        return thread


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE_S", 0.001, raising=False)


def test_a_second_exception_at_any_bytecode_leaves_no_change_half_done():
    def again(frame) -> None:
        raise KeyboardInterrupt

    def interrupted(books: Books) -> None:
        with pytest.raises(KeyboardInterrupt):
            books.change()

    count = counted(lambda: interrupted(Books()))
    assert count > 20
    for at in range(1, count + 1):
        books = Books()
        bytecodes(lambda books=books: interrupted(books), at, again)
        books.change_elsewhere().join(60)
        assert books.found == [True], f"a second exception before bytecode {at}"
        books.turns.take(get_ident())
        assert books.right


def test_a_lock_that_an_ended_thread_has_left_is_replaced():
    books, taken, end = Books(), threading.Event(), threading.Event()
    leaving = threading.Thread(target=lambda: (books.turns.take(get_ident()), taken.set(), end.wait(60)))
    leaving.start()
    assert taken.wait(60)
    books.right = False
    # They start before its end, because a later thread may get its number.
    waiting = books.change_elsewhere(), books.change_elsewhere()
    end.set()
    for thread in (leaving, *waiting):
        thread.join(60)
    assert books.found == [True] * 2


def test_a_lock_whose_thread_is_within_a_change_is_waited_for(monkeypatch):
    looks = threading.Semaphore(0)
    is_left = Turns._is_left

    def look(self, lock):
        looks.release()
        return is_left(self, lock)

    monkeypatch.setattr(Turns, "_is_left", look)
    books, begun, go_on = Books(), threading.Event(), threading.Event()
    slow = threading.Thread(target=books.change_slowly, args=(begun, go_on))
    slow.start()
    assert begun.wait(60)
    waiting = books.change_elsewhere()
    for _ in range(3):
        assert looks.acquire(timeout=60)
    assert books.found == []
    go_on.set()
    for thread in (slow, waiting):
        thread.join(60)
    assert books.found == [True]
