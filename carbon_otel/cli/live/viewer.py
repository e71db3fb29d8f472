"""Asks measured processes to show themselves, and reads what they show."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import psutil

from carbon_otel.cli.live.state import State, parsed
from carbon_otel.host.identity import ProcessName, pid_namespace
from carbon_otel.host.membership import measured
from carbon_otel.host.showing import Shown


class Viewer:
    """Looks at the measured processes that are `wanted`, and keeps the last state of those that have ended.

    `base` is the place to meet that the user names (`CARBON_OTEL_RUNTIME_DIR`).

    Attributes:
        waiting: the processes that live and have shown nothing yet.
    """

    def __init__(self, base: Path | None, wanted: Callable[[ProcessName], bool] = lambda name: True) -> None:
        self._base = base
        self._wanted = wanted
        self._seen: dict[ProcessName, Shown] = {}
        self._states: dict[ProcessName, State] = {}
        self.waiting: list[ProcessName] = []

    def look(self) -> list[State]:
        """The states of the processes, in the order in which they were first seen. Raises OSError."""
        living = {name: shown for name, shown in measured(self._base).items() if self._wanted(name)}
        self._seen |= living
        for name, shown in self._seen.items():
            before = self._states.get(name)
            if name in living:
                shown.ask()
            elif before is not None and before.final:
                continue
            state = parsed(name, shown.read() or {})
            if state is not None:
                self._states[name] = state
            elif name not in living and before is not None:
                self._states[name] = dataclasses.replace(before, final=True)
        for name in self._states.keys() - living.keys():  # a killed process has not written that it ends
            self._states[name] = dataclasses.replace(self._states[name], final=True)
        self.waiting = [name for name in living if name not in self._states]
        return list(self._states.values())

    def leave(self) -> None:
        """Ask no more."""
        for shown in self._seen.values():
            shown.remove()
        self._seen.clear()


def is_pid(pid: int) -> Callable[[ProcessName], bool]:
    """Whether a process has this id, in the process id namespace of the caller."""
    own = pid_namespace()
    return lambda name: name.pid == pid and name.namespace == own


def started_by(pid: int) -> Callable[[ProcessName], bool]:
    """Whether a process is this one, or one that it, or one below it, has started."""
    own, known = pid_namespace(), {pid: True}

    def is_below(number: int) -> bool:
        if number not in known:
            try:
                above = psutil.Process(number).ppid()
            except psutil.Error:
                return False
            known[number] = above > 1 and is_below(above)
        return known[number]

    return lambda name: name.namespace == own and is_below(name.pid)
