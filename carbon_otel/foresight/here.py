"""Whether the accelerators of a forecast are those of this measurement."""

from __future__ import annotations

import contextlib
from typing import NamedTuple, Protocol, cast

from carbon_otel import runtime
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.forecast.hardware import accelerator
from carbon_otel.stages.api import Recorder


class Measuring(Recorder, Protocol):
    """The measurement that a forecast asks for its grid and its hardware."""

    @property
    def factor(self) -> EmissionFactor: ...

    @property
    def hardware(self) -> str: ...

    @property
    def gpus(self) -> tuple[str, ...]: ...


class Accelerators(NamedTuple):
    """What a training is planned on; the number is None if it may be any."""

    name: str
    number: float | None

    @property
    def text(self) -> str:
        """Such as `256 x H100-SXM5-80GB`."""
        return self.name if self.number is None else f"{self.number:,.0f} x {self.name}"

    def are_here(self) -> bool:
        """Whether this measurement sees as many of them."""
        active = measuring()
        found = 0
        for gpu in active.gpus if active is not None else ():
            with contextlib.suppress(ValueError):  # a GPU that the catalogue lacks
                found += accelerator(gpu).name == self.name
        return found >= max(1, round(self.number or 1))


def measuring() -> Measuring | None:
    """The measurement of this process, if there is one."""
    return cast("Measuring | None", runtime.active())
