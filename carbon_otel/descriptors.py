"""Descriptors that are kept open.

A program may close all descriptors, as a daemon does. The next files that it opens get their numbers. So whatever
keeps a descriptor compares its file with the one that was opened.
"""

from __future__ import annotations

import os


def file_of(descriptor: int) -> object:
    """The identity of a descriptor's file; None if the descriptor is closed or may not be looked at."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
