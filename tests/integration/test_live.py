"""`carbon-otel top` and `run --live` on pseudo-terminals, with measured programs on a fed powercap tree."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carbon_otel.cli.live import beside
from carbon_otel.host.membership import measured
from tests.fakes.terminal import Terminal
from tests.integration.processes import PROGRAMS, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs pseudo-terminals and /proc")

CLI = (sys.executable, "-m", "carbon_otel.cli")
PROGRAM = (sys.executable, str(PROGRAMS / "live.py"))
LIVE = (*CLI, "run", "--live", "--zone", "FR", "--", *PROGRAM)


@pytest.fixture
def environ(host, monkeypatch):
    """The environment of programs that are measured by two packages of 40 W."""
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(host.root))
    monkeypatch.setenv("CARBON_OTEL_INTERVAL_S", "0.2")
    return os.environ


@pytest.fixture
def terminal(environ):
    """Starts programs on pseudo-terminals."""
    opened = []

    def open_(command, *, lines=24, columns=90, **variables):
        opened.append(Terminal(command, {**environ, **variables}, lines, columns))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


@pytest.fixture
def program(environ):
    """A measured program without a terminal, in its stages."""
    process = subprocess.Popen(
        [*PROGRAM, "alone"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write("Ada\n")
    process.stdin.flush()
    yield process
    process.kill()
    process.communicate()


def base():
    """The place in which the processes of a test meet."""
    return Path(os.environ["CARBON_OTEL_RUNTIME_DIR"])


def shown():
    """The files that processes show."""
    return list(base().glob("*/*/live/*"))


def has(text):
    return lambda screen: any(text in line for line in screen.text)


def printed(terminal):
    """The lines of the program, those that have scrolled away too."""
    lines = [*terminal.screen.history, *terminal.screen.text]
    return [int(m[1]) for line in lines if (m := re.fullmatch(r"line (\d+) of the program", line))]


class TestBesideAProgram:
    @staticmethod
    def is_whole(screen) -> bool:
        """Whether the view has the lowest lines for itself, with all that it shows."""
        view, above = screen.text[-8:], screen.text[:-8]
        return (
            ("└ training epoch" in view[-4] or "└ training epoch" in view[-5])
            and "live.py" in view[0]
            and " W " in view[1]
            and re.search(r"package-0 \d.*W", view[2]) is not None
            and re.search(r"✓ training epoch ×\d+ .*J/sample", " ".join(view)) is not None
            and not any("of the program" in line for line in view)
            and not any("package-0" in line for line in above)
        )

    def test_the_program_has_the_terminal_and_the_view_its_lowest_lines(self, terminal):
        it = terminal(LIVE)
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(has("hello Ada"))
        it.wait_for(lambda screen: len(printed(it)) > 40)
        it.wait_for(self.is_whole)  # not in the middle of a drawing
        it.type("end\n")
        assert it.finish() == 0
        lines = printed(it)
        assert lines == list(range(1, len(lines) + 1)), "no line of the program is lost, torn or doubled"
        whole = "\n".join([*it.screen.history, *it.screen.text])
        assert re.search(r"package-0 \d", whole) is None, "nothing of the view is left"
        assert "last line" in whole and "energy, " in whole and "100% measured" in whole

    def test_ctrl_c_is_the_programs_and_the_terminal_is_restored(self, terminal):
        it = terminal(LIVE)
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(has("training epoch"))
        it.type("\x03")
        assert it.finish() == 7
        assert "interrupted" in it.written and "energy, " in it.written
        assert (it.screen.top, it.screen.bottom, it.screen.cursor_shown) == (0, 23, True)
        assert not any("package-0" in line for line in it.screen.text)

    def test_a_program_that_is_killed_leaves_the_terminal_as_it_was(self, terminal):
        it = terminal(LIVE, CARBON_OTEL_CHECKPOINT_INTERVAL_S="0.2")
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(has("training epoch"))
        os.kill(next(iter(measured(base()))).pid, signal.SIGKILL)
        assert it.finish() == 137
        assert "lower bounds" in it.written
        assert (it.screen.top, it.screen.bottom) == (0, 23)

    def test_the_view_follows_the_size_of_the_terminal(self, terminal):
        it = terminal(LIVE)
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(has("training epoch"))
        for lines, columns in ((40, 60), (18, 120)):
            it.resize(lines, columns)
            it.wait_for(lambda screen, lines=lines: screen.bottom == lines - min(8, lines // 3) - 1)
            it.wait_for(lambda screen: "live.py" in screen.text[screen.bottom + 1])
            it.wait_for(lambda screen: "of the program" in screen.text[screen.bottom - 1])
        it.type("end\n")
        assert it.finish() == 0
        assert (it.screen.top, it.screen.bottom) == (0, 17)

    def test_a_small_terminal_is_the_programs(self, terminal):
        it = terminal(LIVE, lines=7)
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(lambda screen: len(printed(it)) > 12)
        it.type("end\n")
        assert it.finish() == 0
        assert "\x1b[1;" not in it.written

    def test_without_colours(self, terminal):
        it = terminal(LIVE, NO_COLOR="1")
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(has("training epoch"))
        it.type("end\n")
        assert it.finish() == 0
        assert not re.search(r"\x1b\[[\d;]*3\dm", it.written)

    def test_a_job_that_is_stopped_gives_the_terminal_back_until_it_goes_on(self, terminal):
        it = terminal(("sh", "-ic", " ".join(LIVE) + "; echo back; fg"), PS1="")
        it.wait_for(has("your name?"))
        it.type("Ada\n")
        it.wait_for(has("training epoch"))
        it.type("\x1a")
        it.wait_for(has("back"))
        it.wait_for(lambda screen: (screen.top, screen.bottom) == (0, 15))
        it.type("end\n")
        assert it.finish() == 0
        assert (it.screen.top, it.screen.bottom) == (0, 23)
        assert "\x1b[r" in it.written[: it.written.index("back\r")]

    @pytest.mark.parametrize("variables", [{}, {"TERM": "dumb"}])
    def test_elsewhere_nothing_is_drawn(self, variables, environ, tmp_path):
        """Not even where the program has ended before the first minute."""
        done = subprocess.run(
            LIVE,
            env={**environ, **variables},
            input="Ada\nend\n",
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0
        assert "\x1b" not in done.stdout + done.stderr
        assert "first line" in done.stdout and "energy, " in done.stderr
        assert " W, " not in done.stderr

    def test_a_log_has_a_line_a_minute(self, program, environ, monkeypatch, capsys):
        monkeypatch.setattr(beside, "_LOG_EVERY_S", 3.0)
        wait_for(lambda: measured(base()))
        with beside.beside(base()) as started:
            started(program.pid)
            time.sleep(10)
        lines = capsys.readouterr().err.splitlines()
        assert 1 <= len(lines) <= 3
        assert all(line.startswith("carbon_otel: ") and "\x1b" not in line for line in lines)
        assert re.search(r"[\d.]+ W, [\d.]+ [mWhJ]+, .* CO2e, training epoch", lines[-1])


class TestTop:
    def pid(self):
        return wait_for(lambda: next(iter(measured(base())), None)).pid

    def test_a_process_is_looked_at_and_its_end_is_seen(self, program, terminal):
        it = terminal((*CLI, "top", str(self.pid())))
        it.wait_for(has("└ training epoch"))
        assert it.screen.on_other_screen
        it.wait_for(lambda screen: has("package-0")(screen) and has(" W now")(screen))
        program.stdin.write("end\n")
        program.stdin.flush()
        assert it.finish() == 0
        assert not it.screen.on_other_screen and it.screen.cursor_shown
        assert any("· ended" in line for line in it.screen.text), "the last state stays on the screen"
        assert program.wait(60) == 0

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
    def test_the_terminal_is_restored_and_the_program_goes_on(self, program, terminal, number, code):
        it = terminal((*CLI, "top", str(self.pid())))
        it.wait_for(has("package-0"))
        before = it.modes
        os.kill(it.pid, number)
        assert it.finish() == code
        assert not it.screen.on_other_screen and it.screen.cursor_shown
        assert it.modes_now() == before
        assert program.poll() is None
        assert not shown(), "nobody looks any more"

    def test_a_viewer_that_is_killed_costs_the_program_nothing_for_long(self, program, terminal):
        pid = self.pid()
        it = terminal((*CLI, "top", str(pid)))
        it.wait_for(has("package-0"))
        os.kill(it.pid, signal.SIGKILL)
        it.finish()
        wait_for(lambda: not shown())
        assert program.poll() is None and measured(base())

    def test_a_program_that_is_killed_has_ended(self, program, terminal):
        pid = self.pid()
        it = terminal((*CLI, "top", str(pid)))
        it.wait_for(has("package-0"))
        os.kill(pid, signal.SIGKILL)
        assert it.finish() == 0
        assert any("· ended" in line for line in it.screen.text)

    def test_all_processes_and_the_devices_of_the_host(self, program, environ, terminal):
        other = subprocess.Popen(
            [*PROGRAM, "alone"], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            self.pid()
            it = terminal((*CLI, "top", "--host"))
            it.wait_for(lambda screen: has("package-1")(screen) and has("live.py")(screen))
            it.wait_for(has("threads): "))
            it.wait_for(has("together"))
            it.type("\x03")
            assert it.finish() == 0
        finally:
            other.kill()
            other.communicate()

    def test_once_is_for_scripts(self, program, environ):
        pid = self.pid()
        done = subprocess.run([*CLI, "top", str(pid), "--once"], env=environ, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert "training forest" in done.stdout and "\x1b" not in done.stdout

    def test_a_process_that_is_not_measured_is_refused(self, program, environ):
        pid = self.pid()
        done = subprocess.run([*CLI, "top", "1"], env=environ, capture_output=True, text=True)
        assert done.returncode == 1 and f"those that are: {pid}" in done.stderr
        done = subprocess.run([*CLI, "top", "1", "--host"], env=environ, capture_output=True, text=True)
        assert done.returncode == 2

    def test_without_a_process_it_says_how_to_start_one(self, environ):
        done = subprocess.run([*CLI, "top", "--once"], env=environ, capture_output=True, text=True)
        assert done.returncode == 0 and "carbon-otel run -- python" in done.stdout.replace("\n", " ")

    def test_in_a_log_it_is_a_line(self, program, environ):
        pid = self.pid()
        top = subprocess.Popen([*CLI, "top", str(pid)], env=environ, stdout=subprocess.PIPE, text=True)
        first = top.stdout.readline()
        assert first.startswith("carbon_otel: ") and " W, " in first
        program.stdin.write("end\n")
        program.stdin.flush()
        rest, _ = top.communicate(timeout=120)
        assert top.returncode == 0 and len(rest.splitlines()) == 1 and "ended" in rest
