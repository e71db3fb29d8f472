"""Renews locks and state in forked children.

The thread that held a lock at a fork does not exist in the child, where the lock would stay locked; and state such
as open stages or the locks of files stays the parent's. A class that makes a lock, an event, a condition or a
thread therefore registers one method in its `__init__`:

    renew_after_fork(self._renew)

One handler of the package calls the registered functions in each child, in the order of registration.

A library that a thread of ours is calling at the fork cannot be renewed. SQLite, for example, keeps the locks of
its files in memory: the child would wait for a transaction that only the parent can end. Such calls are therefore
made in a block that a fork waits for:

    with before_a_fork(0.05):
        store.log_batch(...)
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, Final

from carbon_otel import clock
from carbon_otel.guard import survive

_numbers = itertools.count()
# No lock guards this dict, since that lock would need renewal too. Each access is one atomic step.
_registered: Final[dict[int, Callable[[], None]]] = {}
# By thread: until when a fork waits for its block, and the forks that have begun. Without a lock for the
# same reason: each thread first writes one of them and then reads the other, so at least one sees the other.
_blocks: Final[dict[int, float]] = {}
_forks: Final[set[int]] = set()
_POLL_S: Final = 0.0005
# A block begins after this time although forks go on, so that a program that forks all the time does not stop it.
_FORKS_S: Final = 1.0


def renew_after_fork(renew: Callable[[], None]) -> None:
    """Call `renew()` in every forked child, on its only thread, before the program continues there.

    A bound method is held weakly and is dropped with its object. A function is kept. An exception is logged,
    and the other functions are called.
    """
    number = next(_numbers)
    if isinstance(renew, MethodType):
        owner = weakref.ref(renew.__self__, functools.partial(_forget, _registered, number))
        _registered[number] = functools.partial(_call, owner, renew.__func__)
    else:
        _registered[number] = renew


@contextmanager
def before_a_fork(at_most_s: float) -> Iterator[None]:
    """A fork in another thread waits for the end of this block, until `at_most_s` seconds after its begin."""
    thread = threading.get_ident()
    if thread in _blocks:  # the outer block counts
        yield
        return
    latest = clock.monotonic() + _FORKS_S
    while True:
        _blocks[thread] = clock.monotonic() + at_most_s
        if _forks <= {thread} or clock.monotonic() > latest:
            break
        del _blocks[thread]
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        _blocks.pop(thread, None)  # in a child it is gone


def _wait_for_blocks() -> None:
    thread = threading.get_ident()
    _forks.add(thread)
    while any(until > clock.monotonic() for other, until in list(_blocks.items()) if other != thread):
        time.sleep(_POLL_S)


def _forked() -> None:
    _forks.discard(threading.get_ident())


def _call(owner: Callable[[], object], method: Callable[[Any], None]) -> None:
    alive = owner()
    if alive is not None:
        method(alive)


def _forget(registered: dict[int, Callable[[], None]], number: int, _: object) -> None:
    # Uses arguments only: at interpreter exit the module's globals may be gone.
    registered.pop(number, None)


def _renew_all() -> None:
    _blocks.clear()
    _forks.clear()
    for renew in list(_registered.values()):
        survive("renewing a forked process", renew)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_blocks, after_in_parent=_forked, after_in_child=_renew_all)
