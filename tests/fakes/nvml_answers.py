"""A fake of `Nvml`, whose GPUs answer what a test wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from tests.fakes.clock import NS, Clock


class Error(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class Library:
    """The answers of the driver functions come from `answers`; one is a value, an Error, or a function of these.

    Reading the energy takes `takes_s` of the clock, and its answer is of the middle of that time.
    """

    error = Error

    def __init__(self, clock: Clock, answers: Mapping[str, Any]) -> None:
        self.clock = clock
        self.clock_s: Callable[[], float] = lambda: clock() / NS
        self.takes_s = 0.0
        self.starts = 1
        self.learned: dict[str, tuple[float, float]] = {}
        self.metered = 0
        self.answers = dict(answers)
        self.energy_reads = 0
        self.api = SimpleNamespace(
            NVML_SUCCESS=0,
            nvmlDeviceGetTotalEnergyConsumption=self._energy,
            nvmlDeviceGetPowerUsage=lambda handle: self._answer("power"),
            nvmlDeviceGetEnforcedPowerLimit=lambda handle: self._answer("limit"),
            nvmlDeviceGetName=lambda handle: self._answer("name"),
            nvmlDeviceGetFieldValues=self._field,
        )

    def _energy(self, handle: object) -> Any:
        self.energy_reads += 1
        self.clock.advance(self.takes_s / 2)
        try:
            return self._answer("energy")
        finally:
            self.clock.advance(self.takes_s / 2)

    def _field(self, handle: object, fields: object) -> list[SimpleNamespace]:
        self._answer("field_error")
        code, kind, number = self._answer("field")
        members = dict.fromkeys(("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal"), number)
        value = SimpleNamespace(**members)
        return [SimpleNamespace(fieldId=186, nvmlReturn=code, valueType=kind, value=value)]

    def _answer(self, function: str) -> Any:
        answer = self.answers[function]
        answer = answer() if callable(answer) else answer
        if isinstance(answer, Exception):
            raise answer
        return answer

    def handle(self, uuid: str) -> object:
        self._answer("handle_error")
        return object()

    def is_lost(self, error: Error) -> bool:
        return error.value in (1, 2, 9, 15)

    def restart_after(self, error: Error, starts: int) -> None:
        if error.value in (1, 9):
            self._answer("handle_error")
            self.starts += 1


HEALTHY: dict[str, Any] = {
    "energy": 1000,
    "power": 100_000,
    "limit": 700_000,
    "name": "H100",
    "field_error": 0,
    "field": (3, 1, 0),
    "handle_error": 0,
}
