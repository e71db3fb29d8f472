"""Faults of ours never reach the user's program: each kind is logged once and contained."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

logger = logging.getLogger("carbon_otel")

_T = TypeVar("_T")
_seen: set[str] = set()


def warn_once(key: str, message: str, *, exc_info: BaseException | None = None) -> None:
    """Log a warning the first time `key` comes up since `forget()`."""
    # No lock: one held by another thread at a fork would stay locked in the child.
    if key in _seen:
        return
    _seen.add(key)
    logger.warning(message, exc_info=exc_info)


def forget() -> None:
    """A new session may say things again."""
    _seen.clear()


def report(what: str, error: Exception) -> None:
    """Log a contained exception, once under `what`."""
    warn_once(what, f"{what} failed: {error!r}; the program goes on", exc_info=error)


def contain(what: str, function: Callable[..., _T], default: _T, *args: object) -> _T:
    """Call `function(*args)`; on an exception report it under `what` and return the default."""
    try:
        return function(*args)
    except Exception as error:  # noqa: BLE001 - nothing of ours may reach the user's program
        report(what, error)
        return default
