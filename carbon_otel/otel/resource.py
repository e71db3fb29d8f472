"""Resource attributes of a measured process: its hardware, its electricity grid and the method of measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from carbon_otel.semconv import names as semconv

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor
    from carbon_otel.sensors.discovery import Discovery

Attributes = Mapping[str, str | float | Sequence[str]]


def described(discovery: Discovery, factor: EmissionFactor) -> Attributes:
    """Resource attributes of the host and of the method behind its figures."""
    place = factor.intensity
    attributes: dict[str, str | float | Sequence[str]] = {
        semconv.HOST_CPU_MODEL: discovery.processor,
        semconv.METHOD: discovery.method,
        semconv.ZONE: place.zone,
        semconv.INTENSITY_G_PER_KWH: place.g_per_kwh,
        semconv.INTENSITY_SOURCE: place.source,
        semconv.PUE: factor.pue,
    }
    if discovery.gpus:
        attributes[semconv.GPU_MODELS] = discovery.gpus
    if discovery.missing:
        attributes[semconv.MISSING] = discovery.missing
    return attributes
