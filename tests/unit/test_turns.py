"""Turns at the books: what exceptions break off is restored before the next change."""

from __future__ import annotations

import pytest

from carbon_otel.stages.turns import Turns
from tests.unit.test_interrupted_stage import bytecodes, counted


class Books:
    """Books that a change leaves wrong until they are restored."""

    def __init__(self) -> None:
        self.right = True
        self.turns = Turns(self.restore, ())

    def restore(self) -> None:
        self.right = True

    def change(self) -> None:
        turns = self.turns
        try:
            turns.busy.add(1)
            turns.take(1)
            assert self.right
            self.right = False
            raise KeyboardInterrupt
        except BaseException:
            turns.give_up(1)
            raise


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
        books.turns.take(1)
        assert books.right, f"a second exception before bytecode {at}"
