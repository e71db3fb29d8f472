"""What the telemetry of a measured process is about: its hardware, grid and method, as resource attributes.

With `OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=carbon_otel` an application's own providers get them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource, ResourceDetector

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


class CarbonResourceDetector(ResourceDetector):
    """Looks at the hardware and at our settings. A wrong setting is an error that the SDK logs."""

    def detect(self) -> Resource:
        from carbon_otel import config
        from carbon_otel.carbon.grid import Pricing, intensity
        from carbon_otel.sensors.discovery import discover

        if config.disabled():
            return Resource.get_empty()
        settings = config.resolve({})
        found = discover(settings.powercap_root, settings.cpu_family)
        try:
            return Resource(dict(described(found, Pricing(intensity(settings.zone), settings.pue))))
        finally:
            found.close()
