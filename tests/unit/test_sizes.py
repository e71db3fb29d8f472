"""How many samples there are in a batch, without a call of the user's code."""

from __future__ import annotations

from collections import OrderedDict, UserDict, UserList, defaultdict
from typing import Any, NamedTuple

import pytest

from carbon_otel.instrumentation.sizes import parts_in, samples_in_batch

np = pytest.importorskip("numpy")
ROWS = np.zeros((4, 3))


class Untouchable:
    """A mix-in whose methods may not be called."""

    def _refuse(self, *_, **__):
        raise AssertionError("code of the user")

    __getitem__ = __iter__ = __len__ = __bool__ = __contains__ = keys = values = items = _refuse


class MyDict(Untouchable, dict):
    pass


class MyUserDict(Untouchable, UserDict):
    pass


class MyList(Untouchable, list):
    pass


class MyTuple(Untouchable, tuple):
    __slots__ = ()


class Pair(NamedTuple):
    x: Any
    y: Any


def user_dict(kind):
    made = kind()
    vars(made)["data"] = {"x": ROWS, "y": ROWS[:1]}
    return made


@pytest.mark.parametrize(
    "batch",
    [
        ROWS,
        {"x": ROWS, "y": ROWS[:1]},
        OrderedDict(x=ROWS),
        defaultdict(list, {"x": ROWS}),
        MyDict({"x": ROWS}),
        user_dict(UserDict),
        user_dict(MyUserDict),
        [ROWS, ROWS[:1]],
        (ROWS, ROWS[:1]),
        Pair(ROWS, ROWS[:1]),
        MyList([ROWS]),
        MyTuple([ROWS]),
        [{"x": ROWS}],
        ["a", "b", "c", "d"],
        {"text": ["a", "b", "c", "d"]},
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_samples_of_a_batch(batch):
    assert samples_in_batch(batch) == 4


@pytest.mark.parametrize(
    "batch", [None, {}, MyDict(), UserDict(), Pair("a", "b"), UserList([1, 2]), object(), "text", {"x": 1}]
)
def test_what_does_not_tell(batch):
    assert samples_in_batch(batch) is None


def test_parts_that_a_class_of_the_user_hides():
    hidden = UserDict()
    vars(hidden)["data"] = user_dict(MyUserDict)
    assert parts_in(hidden) is None
