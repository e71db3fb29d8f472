"""`carbon-otel top`: measured processes, or the devices of this host, as they are now."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Final

import typer
from rich.live import Live

from carbon_otel import clock, config, quantities
from carbon_otel.cli.live import view
from carbon_otel.cli.live.host import Host
from carbon_otel.cli.live.state import DeviceNow, State
from carbon_otel.cli.live.viewer import Viewer, is_pid
from carbon_otel.cli.output import Group, RenderableType, Screen, on_terminal, refuse, say
from carbon_otel.host.membership import measured

_EVERY_S: Final = 1.0
_LOG_EVERY_S: Final = 60.0
# A process answers at its next reading; one that reads its sensors rarely is not waited for.
_PATIENCE_S: Final = 3.0
_POLL_S: Final = 0.1

_NONE: Final = "no process of yours is measured; start one by: carbon-otel run -- python train.py"


def top(
    pid: Annotated[
        int | None, typer.Argument(help="A measured process; by default all of this user.")
    ] = None,
    host: Annotated[
        bool, typer.Option("--host", help="Also show the devices of this host, by its own sensors.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
) -> None:
    """Show power, energy, emissions and open stages of the processes that are measured now, once a second.

    Where the output is no terminal, it gets a line a minute.
    """
    if pid is not None and host:
        refuse("give a process or --host: the devices are those of all processes")
    try:
        settings = config.resolve({})
    except ValueError as error:
        refuse(str(error))
    base = settings.runtime_dir
    if pid is not None and not any(map(is_pid(pid), measured(base))):
        known = ", ".join(sorted(str(name.pid) for name in measured(base)))
        refuse(f"process {pid} is not measured; those that are: {known}" if known else _NONE, code=1)
    viewer = Viewer(base) if pid is None else Viewer(base, is_pid(pid))
    shown = _Shown(viewer, Host(settings) if host else None, of_one=pid is not None)
    with contextlib.suppress(KeyboardInterrupt), contextlib.closing(shown):
        shown.first_look()
        if once:
            Screen().print(shown.page())
        elif on_terminal():
            _draw(shown)
        else:
            _log(shown)


class _Shown:
    """What is shown: the processes of a viewer, and the devices of the host if they are asked for."""

    def __init__(self, viewer: Viewer, host: Host | None, *, of_one: bool) -> None:
        self._viewer = viewer
        self._host = host
        self._of_one = of_one
        self._states: list[State] = []

    def first_look(self) -> None:
        """Wait for the answers of the processes, and for the first power of the devices."""
        begun_s = clock.monotonic()
        least_s = begun_s + (0.0 if self._host is None else _EVERY_S)
        while True:
            self.look()
            now_s = clock.monotonic()
            if now_s >= least_s and (not self._viewer.waiting or now_s > begun_s + _PATIENCE_S):
                return
            time.sleep(_POLL_S)

    def look(self) -> None:
        """Read the processes. Ends the command where their files cannot be used."""
        try:
            states = self._viewer.look()
        except OSError as error:
            refuse(f"the measured processes cannot be asked: {error}", code=1)
        # Of those that have ended, only the one that was asked for is shown.
        self._states = [state for state in states if self._of_one or not state.final]

    @property
    def over(self) -> bool:
        """Whether the process that was asked for has ended."""
        return self._of_one and bool(self._states) and self._states[0].final

    def page(self) -> Group:
        """All of it, for people."""
        width = Screen().width
        parts: list[RenderableType] = []
        if self._host is not None:
            devices = self._host.look()
            parts += [
                f"{self._host.hardware}: {_power(devices)} now",
                view.devices(devices, width, of_host=True),
            ]
            if self._host.missing:
                parts.append(f"not in these figures: {', '.join(self._host.missing)}; see carbon-otel doctor")
        if len(self._states) == 1:
            parts.append(view.one(self._states[0], width, with_devices=self._host is None))
        elif self._states:
            parts.append(view.several(self._states, width))
        elif not self._viewer.waiting:
            parts.append(_NONE)
        parts += [f"process {name.pid} has not been read yet" for name in self._viewer.waiting]
        return Group(*parts)

    def line(self) -> str:
        """The same in one line, for a log."""
        parts = [f"host {_power(self._host.look())}"] if self._host is not None else []
        parts.append(view.line(self._states) if self._states else _NONE)
        return "; ".join(parts)

    def close(self) -> None:
        """Ask no more."""
        self._viewer.leave()
        if self._host is not None:
            self._host.close()


def _power(devices: list[DeviceNow]) -> str:
    return quantities.power(sum(device.watts for device in devices))


def _draw(shown: _Shown) -> None:
    """On the other screen of the terminal, so that what was there before comes back."""
    with _ended_by_sigterm(), Live(console=Screen(), screen=True, auto_refresh=False) as live:
        while not shown.over:
            live.update(shown.page(), refresh=True)
            time.sleep(_EVERY_S)
            shown.look()
    Screen().print(shown.page())


def _log(shown: _Shown) -> None:
    while True:
        say(f"carbon_otel: {shown.line()}")
        due_s = clock.monotonic() + _LOG_EVERY_S
        while clock.monotonic() < due_s:
            time.sleep(_EVERY_S)
            shown.look()
            if shown.over:
                say(f"carbon_otel: {shown.line()}")
                return


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """A signal that would end the process leaves the block instead, so that the terminal is restored."""

    def leave(number: int, frame: object) -> None:
        raise typer.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
