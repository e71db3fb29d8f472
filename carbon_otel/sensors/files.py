"""Small files of the kernel that are read again and again through one descriptor."""

from __future__ import annotations

import os


def _seek_and_read(descriptor: int, size: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


# Threads read one descriptor at the same time. Without `pread`, as on Windows, one of them may read nothing, which
# is a gap.
pread = getattr(os, "pread", _seek_and_read)
