"""What a measured process shows of itself, by `carbon_otel/live.py`, in typed records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from carbon_otel.host.identity import ProcessName
from carbon_otel.records import Foresight


@dataclass(frozen=True, slots=True)
class DeviceNow:
    """A device: its watts now, the share of the process in it, and the joules of the process so far."""

    name: str
    watts: float
    share: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class StageNow:
    """A stage that is open, or one that has ended; figures are inclusive, and NaN if they are unknown."""

    id: int
    parent: int | None
    kind: str
    name: str
    duration_s: float
    energy_j: float
    emissions_g: float
    units: Mapping[str, float]
    open: bool
    failed: bool = False
    forecast: Foresight | None = None


@dataclass(frozen=True, slots=True)
class State:
    """A process at its last reading. `written_s` is a time of the wall clock, in seconds."""

    process: ProcessName
    command: str
    final: bool
    written_s: float
    duration_s: float
    energy_j: float
    low_j: float
    high_j: float
    emissions_g: float
    low_g: float
    high_g: float
    measured_fraction: float
    method: str
    grid: str
    kinds: Mapping[str, float]
    devices: tuple[DeviceNow, ...]
    stages: tuple[StageNow, ...]

    @property
    def watts(self) -> float:
        """The power of the process now."""
        return math.nan if self.final else sum(device.watts * device.share for device in self.devices)


def parsed(process: ProcessName, shown: Mapping[str, Any]) -> State | None:
    """The record of what a process shows; None for what another version has written."""
    try:
        footprint, grid = shown["footprint"], shown["footprint"]["intensity"]
        return State(
            process=process,
            command=str(shown["command"]),
            final=shown["status"] == "final",
            written_s=float(shown["written_unix_s"]),
            duration_s=float(footprint["duration_s"]),
            **{
                name: _number(footprint[name])
                for name in ("energy_j", "low_j", "high_j", "emissions_g", "low_g", "high_g")
            },
            measured_fraction=float(footprint["measured_fraction"]),
            method=str(footprint["method"]),
            grid=f"{grid['zone']}, {grid['g_per_kwh']:.1f} g/kWh" if grid else "",
            kinds={kind: float(cost["energy_j"]) for kind, cost in footprint["stages"].items()},
            devices=tuple(map(_device, shown["devices"])),
            stages=tuple(map(_stage, shown["stages"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _device(shown: Mapping[str, Any]) -> DeviceNow:
    figures = (float(shown[name]) for name in ("watts", "share", "energy_j"))
    return DeviceNow(str(shown["name"]), *figures)


def _stage(shown: Mapping[str, Any]) -> StageNow:
    forecast = shown.get("forecast")
    return StageNow(
        id=int(shown["id"]),
        parent=shown["parent"],
        kind=str(shown["kind"]),
        name=str(shown["name"]),
        duration_s=float(shown["duration_s"]),
        energy_j=_number(shown["energy_j"]),
        emissions_g=_number(shown["emissions_g"]),
        units={str(unit): float(amount) for unit, amount in shown["units"].items()},
        open=bool(shown["open"]),
        failed=bool(shown.get("failed")),
        forecast=Foresight(**forecast) if forecast else None,
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
