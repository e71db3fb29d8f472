"""What a user sees of a stage: energy, emissions, their band and their provenance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from carbon_otel.carbon.grid import EmissionFactor, Intensity
from carbon_otel.provenance import combined, is_measured, quadrature
from carbon_otel.records import DeviceEnergy, StageRecord
from carbon_otel.units import J_PER_KWH, J_PER_WH


@dataclass(frozen=True, slots=True)
class Footprint:
    """Energy and emissions of a stage, a run or the process.

    Energy is that of the IT equipment, in joules; PUE enters the emissions only. A footprint that was not
    measured has `method == "missing"` and NaN figures, which `as_dict()` gives as None.

    Attributes:
        energy_j: inclusive joules: the stage and its children in this process.
        exclusive_j: the stage's own joules. Only exclusive figures may be summed over stages.
        emissions_g: inclusive grams of CO2 equivalent; `exclusive_g` likewise its own.
        low_j, high_j: band of `energy_j`; `low_g`, `high_g`: band of `emissions_g`, which adds the grid's.
        duration_s: wall time of the stage.
        measured_fraction: share of the joules that a hardware sensor measured, 0 to 1.
        method: the tiers behind the joules, best first, joined by `+`.
        devices: device id to exclusive joules.
        devices_inclusive: device id to inclusive joules.
        components: `cpu`, `gpu`, `memory`, `host` to inclusive joules.
        units: functional units set with `stage.units(...)`, such as samples.
        gap_s: device seconds without a reading, filled with neighbouring power.
        flags: quality signals, `flag:device`, such as `short:GPU-…` or `reset:intel-rapl:0`.
        missing: components that draw power but could not be read; their energy is not in the figure.
        intensity, pue: what the emissions were computed with.
        shares: this process's mean share of the host by rule of attribution, `reserved` and `process`; the one
            in force is charged.
        stages: for a run or the process, joules and grams by kind of stage, exclusive, so that they add up.
    """

    energy_j: float
    exclusive_j: float
    emissions_g: float
    exclusive_g: float
    low_j: float
    high_j: float
    low_g: float
    high_g: float
    duration_s: float
    measured_fraction: float
    method: str
    devices: Mapping[str, float]
    devices_inclusive: Mapping[str, float]
    components: Mapping[str, float]
    intensity: Intensity | None
    pue: float
    units: Mapping[str, float] = field(default_factory=dict)
    gap_s: float = 0.0
    flags: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    stages: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)

    @property
    def energy_kwh(self) -> float:
        return self.energy_j / J_PER_KWH

    @property
    def energy_wh(self) -> float:
        return self.energy_j / J_PER_WH

    @property
    def emissions_kg(self) -> float:
        return self.emissions_g / 1000

    @property
    def per_unit(self) -> Mapping[str, tuple[float, float]]:
        """Functional unit to (joules, grams) per one of it (SCI's R)."""
        return {u: (self.energy_j / n, self.emissions_g / n) for u, n in self.units.items() if n}

    def as_dict(self) -> dict[str, Any]:
        """Plain types, ready for JSON; figures that are not known are None."""
        place = self.intensity
        return {
            "energy_j": _known(self.energy_j),
            "exclusive_j": _known(self.exclusive_j),
            "energy_kwh": _known(self.energy_kwh),
            "emissions_g": _known(self.emissions_g),
            "exclusive_g": _known(self.exclusive_g),
            "low_j": _known(self.low_j),
            "high_j": _known(self.high_j),
            "low_g": _known(self.low_g),
            "high_g": _known(self.high_g),
            "duration_s": self.duration_s,
            "measured_fraction": self.measured_fraction,
            "method": self.method,
            "devices": dict(self.devices),
            "devices_inclusive": dict(self.devices_inclusive),
            "components": dict(self.components),
            "units": dict(self.units),
            "per_unit": {u: {"energy_j": j, "emissions_g": g} for u, (j, g) in self.per_unit.items()},
            "gap_s": self.gap_s,
            "flags": list(self.flags),
            "missing": list(self.missing),
            "shares": dict(self.shares),
            "stages": {k: {"energy_j": j, "emissions_g": g} for k, (j, g) in self.stages.items()},
            "pue": self.pue,
            "intensity": place
            and {
                "zone": place.zone,
                "g_per_kwh": place.g_per_kwh,
                "year": place.year,
                "kind": place.kind,
                "source": place.source,
            },
        }


NOT_MEASURED = Footprint(
    energy_j=math.nan,
    exclusive_j=math.nan,
    emissions_g=math.nan,
    exclusive_g=math.nan,
    low_j=math.nan,
    high_j=math.nan,
    low_g=math.nan,
    high_g=math.nan,
    duration_s=0.0,
    measured_fraction=0.0,
    method="missing",
    devices={},
    devices_inclusive={},
    components={},
    intensity=None,
    pue=1.0,
    flags=("not_measured",),
)


def footprint_of(record: StageRecord, factor: EmissionFactor, missing: tuple[str, ...] = ()) -> Footprint:
    """Price a record and put its bands together.

    Within a device the band is systematic, so it scales with the joules; devices are independent, so their
    deviations combine in quadrature; so do energy and intensity in the band of the emissions.
    """
    if not record.devices:
        return NOT_MEASURED
    energy_j, grams = record.inclusive_j, record.inclusive_g
    paid = [d for d in record.devices if d.inclusive_j > 0] or record.devices
    below = quadrature(d.inclusive_j * (1 - d.device.band.low) + d.below_j for d in record.devices)
    above = quadrature(d.inclusive_j * (d.device.band.high - 1) + d.above_j for d in record.devices)
    band = factor.intensity.band
    method = combined([*(d.device.method for d in paid), *(["missing"] if missing else [])])  # type: ignore[list-item]
    components: dict[str, float] = {}
    for part in record.devices:
        components[part.device.type] = components.get(part.device.type, 0.0) + part.inclusive_j
    return Footprint(
        energy_j=energy_j,
        exclusive_j=record.exclusive_j,
        emissions_g=grams,
        exclusive_g=record.exclusive_g,
        low_j=max(0.0, energy_j - below),
        high_j=energy_j + above,
        low_g=max(0.0, grams * (1 - quadrature([_ratio(below, energy_j), 1 - band.low]))),
        high_g=grams * (1 + quadrature([_ratio(above, energy_j), band.high - 1])),
        duration_s=record.duration_s,
        measured_fraction=_measured_fraction(record.devices),
        method=method,
        devices={d.device.id: d.exclusive_j for d in record.devices},
        devices_inclusive={d.device.id: d.inclusive_j for d in record.devices},
        components=components,
        intensity=factor.intensity,
        pue=factor.pue,
        units=record.units,
        gap_s=sum(d.gap_s for d in record.devices),
        flags=tuple(sorted(f"{flag}:{d.device.id}" for d in record.devices for flag in d.flags)),
        missing=missing,
        stages=record.by_kind,
        shares=record.shares,
    )


def _measured_fraction(devices: tuple[DeviceEnergy, ...]) -> float:
    total = sum(d.inclusive_j for d in devices)
    if total <= 0:
        return float(all(is_measured(d.device.method) for d in devices))
    return sum(max(0.0, d.inclusive_j - d.filled_j) for d in devices if is_measured(d.device.method)) / total


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
