"""The factors of what stands beside the emissions, from the settings and the hardware."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone
from typing import Final

from carbon_otel.carbon.embodied import Hardware, hardware
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.carbon.intensity import Intensity, Signal, year_of
from carbon_otel.carbon.life_cycle import LifeCycle
from carbon_otel.carbon.regions import region
from carbon_otel.carbon.water import water_factor
from carbon_otel.config.life import LifeSettings
from carbon_otel.provenance import Band
from carbon_otel.sensors.discovery import Discovery
from carbon_otel.sensors.memory_model import memory_gb

_EXACT: Final = Band(1.0, 1.0, "given", "stated")


def life_cycle(
    settings: LifeSettings, discovery: Discovery, threads: float, factor: EmissionFactor
) -> LifeCycle:
    """The factors of a measurement on a host with so many hardware threads, at the place of `factor`."""
    market, zone = settings.market_intensity, factor.intensity.zone
    site_l_per_kwh = region(factor.region).water_l_per_kwh if factor.region else None
    return LifeCycle(
        _hardware(settings, discovery, threads),
        None if market is None else market_intensity(market, settings.market_source, zone),
        water_factor(zone, factor.pue, site_l_per_kwh) if settings.water else None,
    )


def _hardware(settings: LifeSettings, discovery: Discovery, threads: float) -> Hardware:
    devices = [sensor.device for sensor in discovery.sensors]
    found = hardware(
        [device.name if device.type == "gpu" else None for device in devices],
        threads,
        _memory_gb(),
        parts=[discovery.parts.get(device.id, 1.0) for device in devices],
        given_kg=settings.embodied_kg,
        lifetime_years=settings.lifetime_years,
    )
    if "gpu" in discovery.missing and settings.embodied_kg is None:
        return replace(found, unknown=(*found.unknown, "a GPU without a sensor"))
    return found


def _memory_gb() -> float | None:
    try:
        return memory_gb()
    except Exception:  # noqa: BLE001 - a test of the application may have replaced `open`, by anything
        return None


def market_intensity(g_per_kwh: float, source: str, zone: str) -> Intensity:
    """The intensity that a user gives for a contract, a supplier or a residual mix."""
    start, end = year_of(datetime.now(timezone.utc).year)
    signal = Signal(method="market")
    return Intensity(zone, zone, g_per_kwh, start, end, _EXACT, source, "given by the user", signal)
