"""The lowest lines of a terminal, kept apart from those in which a program writes.

The program keeps its streams: it writes to the terminal itself, and may read from it. The terminal is told to
scroll only the lines above (DECSTBM, as apt does for its bar). Each drawing is one write, which saves the cursor,
draws below and restores the cursor, so it never falls into a line of the program.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Final

_SAVE, _RESTORE, _ERASE_LINE, _ERASE_BELOW, _ALL_LINES = "\0337", "\0338", "\033[2K", "\033[J", "\033[r"
# A program needs some lines, too.
_LEAST_ABOVE: Final = 6
_LEAST_COLUMNS: Final = 30


class Area:
    """The lowest lines of the terminal `descriptor`, at most `lines` of them and a third of its height."""

    def __init__(self, descriptor: int, lines: int) -> None:
        self._descriptor = descriptor
        self._most = lines
        self._size: os.terminal_size | None = None
        self.lines = 0

    @property
    def columns(self) -> int:
        """The columns to draw in; the last one stays empty, so that no line is broken."""
        return max(0, os.get_terminal_size(self._descriptor).columns - 1)

    def draw(self, lines: Sequence[str]) -> None:
        """Draw these lines, which have no more than `columns` characters; nothing while in the background."""
        if not self._is_in_front():
            return
        if self._size != os.get_terminal_size(self._descriptor):
            self._begin()
        if self._size is None or not self.lines:
            return
        top = self._size.lines - self.lines + 1
        shown = [*lines, *[""] * self.lines][: self.lines]
        drawn = "".join(f"\033[{top + n};1H{_ERASE_LINE}{line}\033[0m" for n, line in enumerate(shown))
        self._write(f"{_SAVE}{drawn}{_RESTORE}")

    def end(self) -> None:
        """Give the lines back to the terminal."""
        size, self._size = self._size, None
        if size is not None and self.lines and self._is_in_front():
            top = min(size.lines, os.get_terminal_size(self._descriptor).lines) - self.lines + 1
            self._write(f"{_SAVE}{_ALL_LINES}\033[{max(1, top)};1H{_ERASE_BELOW}{_RESTORE}")
        self.lines = 0

    def _begin(self) -> None:
        """Reserve the lines, also after a change of the size: the cursor ends above them."""
        self.end()
        self._size = size = os.get_terminal_size(self._descriptor)
        if size.columns < _LEAST_COLUMNS or size.lines - min(self._most, size.lines // 3) < _LEAST_ABOVE:
            return  # too small
        self.lines = count = min(self._most, size.lines // 3)
        self._write(f"{chr(10) * count}{_SAVE}\033[1;{size.lines - count}r{_RESTORE}\033[{count}A")

    def _is_in_front(self) -> bool:
        try:
            return os.tcgetpgrp(self._descriptor) == os.getpgrp()
        except OSError:  # it is not the terminal of this session
            return True

    def _write(self, text: str) -> None:
        left = text.encode()
        with contextlib.suppress(OSError):  # the terminal has been closed
            while left:
                left = left[os.write(self._descriptor, left) :]
