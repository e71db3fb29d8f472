"""Renews locks and state in forked children.

The thread that held a lock at a fork does not exist in the child, where the lock would stay locked; and state such
as open stages or the locks of files stays the parent's. A class that makes a lock, an event, a condition or a
thread therefore registers one method in its `__init__`:

    renew_after_fork(self._renew)

One handler of the package calls the registered functions in each child, in the order of registration.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Final

from carbon_otel.guard import contain

Renew = Callable[[], None]

_numbers = itertools.count()
# Each entry returns the function to call, or None where its object is gone. No lock: it would need renewal itself.
_registered: Final[dict[int, Callable[[], Renew | None]]] = {}


def renew_after_fork(renew: Renew) -> None:
    """Call `renew()` in every forked child, on its only thread, before the program goes on there.

    A bound method is held weakly: it is forgotten with its object. A function is kept. An exception is logged,
    and the other functions are called.
    """
    number = next(_numbers)
    if isinstance(renew, MethodType):
        _registered[number] = weakref.WeakMethod(renew, lambda _: _registered.pop(number, None))
    else:
        _registered[number] = lambda: renew


def _renew_all() -> None:
    for registered in list(_registered.values()):
        renew = registered()
        if renew is not None:
            contain("renewing a forked process", None, renew)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
