"""What the telemetry of a measured process is about: its hardware, grid and method, as resource attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from carbon_otel.otel import conventions as c

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import Pricing
    from carbon_otel.sensors.discovery import Discovery

Attributes = Mapping[str, str | float | Sequence[str]]


def described(discovery: Discovery, pricing: Pricing) -> Attributes:
    """Attributes of the host and of how its figures come about."""
    place = pricing.intensity
    attributes: dict[str, str | float | Sequence[str]] = {
        c.HOST_CPU_MODEL: discovery.processor,
        c.METHOD: discovery.method,
        c.ZONE: place.zone,
        c.INTENSITY_G_PER_KWH: place.g_per_kwh,
        c.INTENSITY_SOURCE: place.source,
        c.PUE: pricing.pue,
    }
    if discovery.gpus:
        attributes[c.GPU_MODELS] = discovery.gpus
    if discovery.missing:
        attributes[c.MISSING] = discovery.missing
    return attributes
