"""A terminal: a pseudo-terminal, and a screen that shows what programs write to it.

The screen knows what a VT100 does with the escapes that the tests meet: moves, erasing, a region that scrolls,
saved cursors and the other screen. Colours are ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence

_TOKEN = re.compile(
    r"\x1b\[([?<>=]?)([\d;]*)([@-~])|\x1b([78=>cM])|\x1b\]([^\x07\x1b]*)(?:\x07|\x1b\\)|(.)", re.DOTALL
)


class Screen:
    """The characters on the screen, and the lines that have left it at the top."""

    def __init__(self, lines: int, columns: int) -> None:
        self.height, self.width = lines, columns
        self.rows = [[" "] * columns for _ in range(lines)]
        self.history: list[str] = []
        self.row = self.column = 0
        self.top, self.bottom = 0, lines - 1
        self.cursor_shown = True
        self.on_other_screen = False
        self._saved = 0, 0
        self._other: list[list[str]] = []
        self._rest = ""

    @property
    def text(self) -> list[str]:
        return ["".join(row).rstrip() for row in self.rows]

    def resize(self, lines: int, columns: int) -> None:
        """As xterm does: the content stays at the top, or moves up for the cursor; all lines scroll."""
        while self.row >= lines:
            self.history.append("".join(self.rows.pop(0)).rstrip())
            self.row -= 1
        self.rows = [(row + [" "] * columns)[:columns] for row in self.rows][:lines]
        self.rows += [[" "] * columns for _ in range(lines - len(self.rows))]
        self.height, self.width = lines, columns
        self.column = min(self.column, columns - 1)
        self.top, self.bottom = 0, lines - 1

    def feed(self, text: str) -> None:
        text, self._rest = self._rest + text, ""
        cut = re.search(r"\x1b(\[[?<>=]?[\d;]*|\][^\x07\x1b]*)?$", text)
        if cut:
            text, self._rest = text[: cut.start()], text[cut.start() :]
        for private, numbers, final, short, _, character in _TOKEN.findall(text):
            if final:
                self._control(private, [int(n or 0) for n in numbers.split(";")], final)
            elif short:
                self._escape(short)
            elif character:
                self._put(character)

    def _put(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._line_feed()
        elif character == "\b":
            self.column = max(0, self.column - 1)
        elif character >= " ":
            if self.column >= self.width:
                self.column = 0
                self._line_feed()
            self.rows[self.row][self.column] = character
            self.column += 1

    def _line_feed(self) -> None:
        if self.row == self.bottom:
            left = self.rows.pop(self.top)
            if self.top == 0 and not self.on_other_screen:
                self.history.append("".join(left).rstrip())
            self.rows.insert(self.bottom, [" "] * self.width)
        else:
            self.row = min(self.row + 1, self.height - 1)

    def _escape(self, name: str) -> None:
        if name == "7":
            self._saved = self.row, self.column
        elif name == "8":
            self.row, self.column = self._saved

    def _control(self, private: str, numbers: list[int], final: str) -> None:
        if private == "?":
            if numbers[0] == 25:
                self.cursor_shown = final == "h"
            elif numbers[0] == 1049:
                self._switch(final == "h")
        elif final in "ABCDGH":
            self._move(final, max(1, numbers[0]), max(1, numbers[-1]) if len(numbers) > 1 else 1)
        elif final == "r":
            self.top = max(1, numbers[0]) - 1
            self.bottom = (numbers[1] if len(numbers) > 1 else self.height) - 1
            self.row = self.column = 0
        elif final in "KJ":
            self._erase(numbers[0], lines=final == "J")

    def _move(self, final: str, first: int, second: int) -> None:
        if final == "A":
            self.row = max(self.top if self.row >= self.top else 0, self.row - first)
        elif final == "B":
            self.row = min(self.bottom if self.row <= self.bottom else self.height - 1, self.row + first)
        elif final == "H":
            self.row, self.column = min(self.height, first) - 1, min(self.width, second) - 1
        else:
            column = {"C": self.column + first, "D": self.column - first, "G": first - 1}[final]
            self.column = min(self.width - 1, max(0, column))

    def _erase(self, part: int, *, lines: bool) -> None:
        """What is after the cursor (0), before it (1), or both (2)."""
        begin, end = 0 if part else self.column, self.column + 1 if part == 1 else self.width
        self.rows[self.row][begin:end] = [" "] * max(0, min(end, self.width) - begin)
        if lines:
            for row in range(0 if part else self.row + 1, self.row if part == 1 else self.height):
                self.rows[row] = [" "] * self.width

    def _switch(self, to_other: bool) -> None:
        if to_other is self.on_other_screen:
            return
        if to_other:
            self._other, self.rows = self.rows, [[" "] * self.width for _ in range(self.height)]
        else:
            self.rows = self._other
        self.on_other_screen = to_other


class Terminal:
    """A program on a pseudo-terminal, which it controls as its session's leader; `screen` shows it."""

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], lines: int = 24, columns: int = 80
    ) -> None:
        self.screen = Screen(lines, columns)
        self.written = ""
        self.code: int | None = None
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            with contextlib.suppress(OSError):
                os.read(0, 1)  # until the size is set
                os.execvpe(
                    command[0], list(command), {**environ, "TERM": environ.get("TERM", "xterm-256color")}
                )
            os._exit(127)
        self._set_size(lines, columns)
        self.modes = self.modes_now()
        os.write(self._master, b"\n")

    def _set_size(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def resize(self, lines: int, columns: int) -> None:
        self.screen.resize(lines, columns)
        self._set_size(lines, columns)

    def modes_now(self) -> list[int]:
        """The modes of the terminal, such as whether it echoes."""
        modes: list[int] = termios.tcgetattr(self._master)[:4]
        return modes

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read(self, for_s: float = 0.05) -> bool:
        """Show what has been written; False at the end of the program."""
        if self.code is not None:
            return False
        ready, _, _ = select.select([self._master], [], [], for_s)
        if ready:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                data = b""
            if not data:
                self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
                return False
            text = data.decode(errors="replace")
            self.written += text
            self.screen.feed(text)
        return True

    def wait_for(self, condition: Callable[[Screen], object], timeout_s: float = 120) -> None:
        """Read until the screen fulfils the condition; fails at the end of the program."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.screen):
            assert time.monotonic() < deadline, "\n".join(self.screen.text)
            assert self.read() or condition(self.screen), "\n".join([*self.screen.history, *self.screen.text])

    def finish(self, timeout_s: float = 120) -> int:
        """Read to the end of the program; its exit code, negative for a signal."""
        deadline = time.monotonic() + timeout_s
        while self.read():
            assert time.monotonic() < deadline, "\n".join(self.screen.text)
        assert self.code is not None
        return self.code

    def close(self) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._master)
