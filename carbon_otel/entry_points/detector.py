"""The resource detector: `OTEL_EXPERIMENTAL_RESOURCE_DETECTORS=carbon_otel` for the application's providers."""

from __future__ import annotations

from opentelemetry.sdk.resources import Resource, ResourceDetector

from carbon_otel import config, here
from carbon_otel.otel.resource import described
from carbon_otel.sensors.discovery import discover


class CarbonResourceDetector(ResourceDetector):
    """Adds the hardware of the host, the grid and the method. The SDK logs the error for a wrong setting."""

    def detect(self) -> Resource:
        if config.disabled():
            return Resource.get_empty()
        settings = config.resolve({})
        discovery = discover(settings.powercap_root, settings.cpu_family)
        try:
            return Resource(dict(described(discovery, here.factor(settings))))
        finally:
            discovery.close()
