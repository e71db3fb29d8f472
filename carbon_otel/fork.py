"""Renews locks and state in forked children.

The thread that held a lock at a fork does not exist in the child, where the lock would stay locked; and state such
as open stages or the locks of files stays the parent's. A class that makes a lock, an event, a condition or a
thread therefore registers one method in its `__init__`:

    renew_after_fork(self._renew)

One handler of the package calls the registered functions in each child, in the order of registration.
"""

from __future__ import annotations

import functools
import itertools
import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any, Final

from carbon_otel.guard import survive

_numbers = itertools.count()
# No lock guards this dict, since that lock would need renewal too. Each access is one atomic step.
_registered: Final[dict[int, Callable[[], None]]] = {}


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


def _call(owner: Callable[[], object], method: Callable[[Any], None]) -> None:
    alive = owner()
    if alive is not None:
        method(alive)


def _forget(registered: dict[int, Callable[[], None]], number: int, _: object) -> None:
    # Uses arguments only: at interpreter exit the module's globals may be gone.
    registered.pop(number, None)


def _renew_all() -> None:
    for renew in list(_registered.values()):
        survive("renewing a forked process", renew)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
