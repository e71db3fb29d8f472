"""Small files of the kernel that are read again and again through one descriptor."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from carbon_otel.descriptors import file_of


def _seek_and_read(descriptor: int, size: int, offset: int) -> bytes:
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


# Threads read one descriptor at the same time. Without `pread`, as on Windows, one of them may read nothing, which
# is a gap.
pread = getattr(os, "pread", _seek_and_read)


class _HeldRead:
    """The beginning of a file of text, up to 32 bytes, by a `pread` that keeps the interpreter's lock.

    For files that are read in microseconds: a thread that gives the lock away waits 5 ms for it, at each file, if
    others calculate.
    """

    def __init__(self) -> None:
        library = ctypes.PyDLL(None, use_errno=True)
        # Of musl from 1.2.4 on, `pread` alone; its offsets have 64 bits.
        function: Any = getattr(library, "pread64", None) or library.pread
        function.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)
        function.restype = ctypes.c_ssize_t
        self._function = function

    def __call__(self, descriptor: int) -> bytes:
        content = _Text()
        if self._function(descriptor, content, 32, 0) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return content.value


_Text: Final = ctypes.c_char * 32
read_held: Final[Callable[[int], bytes]] = (
    _HeldRead() if sys.platform == "linux" else lambda descriptor: bytes(pread(descriptor, 32, 0))
)
# As `pread`, the system's own, also while a test of the application replaces those of the module `os` (pyfakefs).
_fstat: Final = functools.partial(os.fstat)


class KernelFile:
    """A file that is kept open. It is opened again if the program has closed its descriptor. Raises OSError."""

    __slots__ = ("_file", "_path", "descriptor")

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        self._file: object = file_of(self.descriptor, _fstat)

    def read(self, size: int) -> bytes:
        """The beginning of the file."""
        self.renew()
        return bytes(pread(self.descriptor, size, 0))

    def renew(self) -> None:
        """Open the file again if the descriptor is closed, or is that of another file."""
        if self._file is None:
            raise OSError(errno.EBADF, "closed")
        if file_of(self.descriptor, _fstat) != self._file:
            self.descriptor = os.open(self._path, os.O_RDONLY)
            self._file = file_of(self.descriptor, _fstat)

    def close(self) -> None:
        """Close the file, not another one that has got the number of its descriptor."""
        if self._file is not None and file_of(self.descriptor, _fstat) == self._file:
            os.close(self.descriptor)
        self._file, self.descriptor = None, -1
