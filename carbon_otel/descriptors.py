"""Descriptors that are kept open.

A program may close all descriptors, as a daemon does. The next files that it opens get their numbers. So whatever
keeps a descriptor compares its file with the one that was opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable


def file_of(descriptor: int, fstat: Callable[[int], os.stat_result] | None = None) -> object:
    """The identity of a descriptor's file; None if the descriptor is closed or may not be looked at.

    `fstat` is the present `os.fstat` by default: a test of the application may have replaced it.
    """
    try:
        status = (fstat or os.fstat)(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
