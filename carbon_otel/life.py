"""The factors of what stands beside the emissions, from the settings and the hardware."""

from __future__ import annotations

from carbon_otel.carbon.embodied import hardware
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.carbon.life_cycle import LifeCycle, market_intensity, water_factor
from carbon_otel.carbon.regions import region
from carbon_otel.config.life import LifeSettings
from carbon_otel.sensors.discovery import Discovery
from carbon_otel.sensors.memory_model import memory_gb


def life_cycle(
    settings: LifeSettings, discovery: Discovery, threads: float, factor: EmissionFactor
) -> LifeCycle:
    """The factors of a measurement on a host with so many hardware threads, at the place of `factor`."""
    sensors, zone = discovery.sensors, factor.intensity.zone
    site_l_per_kwh = region(factor.region).water_l_per_kwh if factor.region else None
    return LifeCycle(
        hardware(
            [sensor.device.name if sensor.device.type == "gpu" else None for sensor in sensors],
            threads,
            memory_gb(),
            parts=[discovery.parts.get(sensor.device.id, 1.0) for sensor in sensors],
            given_kg=settings.embodied_kg,
            lifetime_years=settings.lifetime_years,
        ),
        None
        if settings.market_intensity is None
        else market_intensity(settings.market_intensity, settings.market_source, zone),
        water_factor(zone, factor.pue, site_l_per_kwh) if settings.water else None,
    )
