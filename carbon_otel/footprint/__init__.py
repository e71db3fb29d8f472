"""The footprint of a stage, a run or the process: energy, emissions, their bands and their provenance."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from carbon_otel.carbon.life_cycle import NO_LIFE_CYCLE, Embodied, LifeCycle, Market
from carbon_otel.carbon.water import Water
from carbon_otel.provenance import Method, combined, is_measured
from carbon_otel.records import TIME_SHARE
from carbon_otel.records import Cost as Cost
from carbon_otel.units import J_PER_KWH, J_PER_WH, KILO

if TYPE_CHECKING:
    import pandas

    from carbon_otel.carbon.grid import EmissionFactor
    from carbon_otel.carbon.intensity import Intensity
    from carbon_otel.footprint.sums import Deviations
    from carbon_otel.records import StageRecord


@dataclass(frozen=True, slots=True)
class Energy:
    """One side of a footprint, exclusive or inclusive.

    Attributes:
        energy_j: joules, of all devices.
        emissions_g: grams of CO2 equivalent.
        devices: device id to joules.
    """

    energy_j: float
    emissions_g: float
    devices: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Energy and emissions of a stage, a run or the process.

    Energy is that of the IT equipment, in joules; PUE enters the emissions only. A footprint that was not
    measured has `method == "missing"` and NaN figures, which `as_dict()` gives as None.

    Exclusive figures are the stage's own; inclusive ones add its children in this process. Only exclusive
    figures can be summed over stages.

    Footprints add up, also by `sum(...)`, if they do not overlap: neither a stage and its child, nor two programs
    that ran at once on one host without a common measurement. Bands of the same devices add up, and those of
    others combine in quadrature. A part that was not measured makes the sum a lower bound: the high ends of its
    bands are infinite. Units of one name add up, whatever they count.

    Attributes:
        energy_j: inclusive joules.
        exclusive_j: exclusive joules.
        emissions_g: inclusive grams of CO2 equivalent.
        exclusive_g: exclusive grams.
        low_j: lower end of the band of `energy_j`.
        high_j: upper end of the band of `energy_j`.
        low_g: lower end of the band of `emissions_g`, which adds the band of the grid.
        high_g: upper end of the band of `emissions_g`.
        duration_s: wall time of the stage.
        measured_fraction: share of the joules that a hardware sensor measured, 0 to 1; 0 for no joules without a
            reading.
        method: the method tiers of the joules, best first, joined by `+`.
        devices: device id to exclusive joules, as in `exclusive.devices`.
        devices_inclusive: device id to inclusive joules, as in `inclusive.devices`.
        components: `cpu`, `gpu`, `memory`, `host` to inclusive joules.
        intensity: the grid intensity behind the emissions; None for a sum that several grids have priced.
        pue: the power usage effectiveness behind the emissions.
        pue_source: who gave the PUE: `given` for a setting, else the publication, or `not given`.
        region: the cloud region, `provider:region`; empty if none was given.
        units: functional units set with `stage.units(...)`, such as samples.
        gap_s: device seconds without a reading, filled with neighbouring power.
        flags: quality signals, `flag:device`, such as `short:GPU-…` or `reset:intel-rapl:0`; `uncoordinated` means
            that other processes may have counted the same energy.
        missing: components that draw power but could not be read; their energy is not in the figure.
        stages: for a run or the process, the cost of each kind of stage; exclusive, so that they add up.
        shares: this process's mean share of the host by rule of attribution, `reserved` and `process`; the
            setting `attribution` chooses the one that is charged.
        embodied: carbon of making the hardware, for the time in which it was reserved; None if it is unknown.
        embodied_unknown: the hardware for which no figure is known.
        market: market-based emissions; None unless the user gives an intensity for them.
        water: water consumed; None unless the user asks for it.
        deviations: for a sum, what its bands consist of; None for one measurement.
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
    stages: Mapping[str, Cost] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    pue_source: str = ""
    region: str = ""
    embodied: Embodied | None = None
    embodied_unknown: tuple[str, ...] = ()
    market: Market | None = None
    water: Water | None = None
    deviations: Deviations | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        from carbon_otel.footprint.shown import summary

        return f"Footprint({summary(self)})"

    def _repr_html_(self) -> str:
        """The footprint for a notebook."""
        from carbon_otel.footprint.shown import html_of

        return html_of(self)

    def __add__(self, other: object) -> Footprint:
        from carbon_otel.footprint.sums import added

        # `sum` begins with the number 0.
        if isinstance(other, int) and other == 0:
            return self
        return added(self, other) if isinstance(other, Footprint) else NotImplemented

    __radd__ = __add__

    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each kind of stage, or one for all where the kinds are not known."""
        from carbon_otel.footprint.shown import rows

        return rows(self)

    def to_frame(self) -> pandas.DataFrame:
        """`rows()` as a pandas frame. Raises ImportError without pandas."""
        from carbon_otel.frames import frame_of

        return frame_of(self.rows())

    @property
    def embodied_g(self) -> float | None:
        """Inclusive grams of making the hardware, in no other figure; None if they are unknown."""
        return None if self.embodied is None else self.embodied.g

    @property
    def market_g(self) -> float | None:
        """Inclusive market-based grams, beside `emissions_g`; None unless the user gives an intensity for them."""
        return None if self.market is None else self.market.g

    @property
    def water_l(self) -> float | None:
        """Inclusive litres of water; None unless the user asks for them."""
        return None if self.water is None else self.water.litres

    @property
    def sci(self) -> Mapping[str, float]:
        """SCI (ISO/IEC 21031), ((E x I) + M) per R: grams per functional unit, for units of an amount above 0.

        It is empty if the embodied carbon is unknown.
        """
        if self.embodied is None:
            return {}
        grams = self.emissions_g + self.embodied.g
        return {unit: grams / amount for unit, amount in self.units.items() if amount > 0}

    @property
    def exclusive(self) -> Energy:
        """The stage's own energy and emissions; the only ones that can be summed over stages."""
        return Energy(self.exclusive_j, self.exclusive_g, self.devices)

    @property
    def inclusive(self) -> Energy:
        """Energy and emissions with those of the stage's children in this process."""
        return Energy(self.energy_j, self.emissions_g, self.devices_inclusive)

    @property
    def energy_kwh(self) -> float:
        """Inclusive energy in kilowatt-hours."""
        return self.energy_j / J_PER_KWH

    @property
    def energy_wh(self) -> float:
        """Inclusive energy in watt-hours."""
        return self.energy_j / J_PER_WH

    @property
    def emissions_kg(self) -> float:
        """Inclusive emissions in kilograms of CO2 equivalent."""
        return self.emissions_g / KILO

    @property
    def per_unit(self) -> Mapping[str, Cost]:
        """Inclusive cost per functional unit (the R of SCI, ISO/IEC 21031); units of amount 0 are left out."""
        return {u: Cost(self.energy_j / n, self.emissions_g / n) for u, n in self.units.items() if n}

    def as_dict(self) -> dict[str, Any]:
        """The footprint in plain types, ready for JSON; an unknown figure is None."""
        grid = self.intensity
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
            "per_unit": {unit: cost._asdict() for unit, cost in self.per_unit.items()},
            "gap_s": self.gap_s,
            "flags": list(self.flags),
            "missing": list(self.missing),
            "shares": dict(self.shares),
            "stages": {kind: cost._asdict() for kind, cost in self.stages.items()},
            "pue": self.pue,
            "pue_source": self.pue_source,
            "region": self.region,
            **self._beside(),
            "intensity": grid
            and {
                "zone": grid.zone,
                "g_per_kwh": grid.g_per_kwh,
                "year": grid.year,
                "kind": grid.kind,
                "signal": grid.signal._asdict(),
                "losses": grid.losses,
                "source": grid.source,
            },
        }

    def _beside(self) -> dict[str, Any]:
        """What stands beside the emissions. Embodied carbon is None if it is unknown; the others may be absent."""
        beside: dict[str, Any] = {"embodied_g": None, "embodied_unknown": list(self.embodied_unknown)}
        if self.embodied is not None:
            beside = {f"embodied_{name}": value for name, value in self.embodied._asdict().items()}
            beside["embodied_by_kind"] = dict(self.embodied.by_kind)
            beside["sci"] = dict(self.sci)
        if self.market is not None:
            beside["market_g"] = self.market.g
            beside["market_exclusive_g"] = self.market.exclusive_g
            beside["market_g_per_kwh"] = self.market.intensity.g_per_kwh
            beside["market_source"] = self.market.intensity.source
        if self.water is not None:
            beside["water_l"] = self.water.litres
            beside["water_low_l"], beside["water_high_l"] = self.water.low, self.water.high
            beside["water_source"] = self.water.source
        return beside


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


def footprint_of(
    record: StageRecord,
    factor: EmissionFactor,
    missing: tuple[str, ...] = (),
    life: LifeCycle = NO_LIFE_CYCLE,
) -> Footprint:
    """Turn a record into a footprint: combine the bands, name the methods and the sources.

    Within a device the band is systematic, so it scales with the joules. Devices are independent, so their
    deviations combine in quadrature, as do energy and intensity in the band of the emissions (GUM, JCGM
    100:2008, 5.1.2).
    """
    if not record.devices:
        return NOT_MEASURED
    # One pass with plain sums: this runs once per stage, and generators cost twice as much.
    energy_j = exclusive_j = measured_j = gap_s = below_squares = above_squares = 0.0
    exclusive: dict[str, float] = {}
    inclusive: dict[str, float] = {}
    components: dict[str, float] = {}
    methods: set[Method] = set()
    flags: list[str] = []
    for part in record.devices:
        device, joules = part.device, part.inclusive_j
        band = device.band
        energy_j += joules
        exclusive_j += part.exclusive_j
        gap_s += part.gap_s
        below_j = joules * (1 - band.low) + part.below_j
        above_j = joules * (band.high - 1) + part.above_j
        below_squares += below_j * below_j
        above_squares += above_j * above_j
        exclusive[device.id] = part.exclusive_j
        inclusive[device.id] = joules
        components[device.type] = components.get(device.type, 0.0) + joules
        if joules > 0:
            methods.add(device.method)
            if TIME_SHARE in part.flags:
                methods.add("modelled.time_share")
            elif is_measured(device.method):
                measured_j += joules
                if part.filled_j:
                    measured_j -= min(joules, part.filled_j)
        if part.flags:
            flags += [f"{flag}:{device.id}" for flag in part.flags]
    if not methods:
        methods = {part.device.method for part in record.devices}
    below_j, above_j = math.sqrt(below_squares), math.sqrt(above_squares)  # of all devices
    grams = record.inclusive_g
    intensity = factor.intensity_of(energy_j, grams)
    grid = intensity.band
    return Footprint(
        energy_j=energy_j,
        exclusive_j=exclusive_j,
        emissions_g=grams,
        exclusive_g=record.exclusive_g,
        low_j=max(0.0, energy_j - below_j),
        high_j=energy_j + above_j,
        low_g=max(0.0, grams * (1 - math.hypot(_ratio(below_j, energy_j), 1 - grid.low))),
        high_g=grams * (1 + math.hypot(_ratio(above_j, energy_j), grid.high - 1)),
        duration_s=record.duration_s,
        measured_fraction=measured_j / energy_j
        if energy_j > 0
        else float(gap_s == 0 and all(map(is_measured, methods))),
        method=_tiers(frozenset(methods), bool(missing)),
        devices=exclusive,
        devices_inclusive=inclusive,
        components=components,
        intensity=intensity,
        pue=factor.pue,
        units=record.units,
        gap_s=gap_s,
        flags=tuple(sorted(flags)),
        missing=missing,
        stages=record.by_kind,
        shares=record.shares,
        pue_source=factor.pue_source,
        region=factor.region,
        embodied=life.embodied(
            record.inclusive_embodied_g, record.exclusive_embodied_g, record.embodied_by_kind
        ),
        embodied_unknown=life.unknown,
        market=life.market_based(energy_j, exclusive_j, factor.pue),
        water=None if life.water is None else life.water.of(energy_j),
    )


@functools.cache
def _tiers(methods: frozenset[Method], lacks_components: bool) -> str:
    return combined([*methods, "missing"] if lacks_components else methods)


def _ratio(part: float, total: float) -> float:
    return part / total if total > 0 else 0.0


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
