"""Resource attributes of a measured process: its hardware, its electricity grid and the method of measuring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from carbon_otel.semconv import names as semconv

if TYPE_CHECKING:
    from carbon_otel.carbon.grid import EmissionFactor

Attributes = Mapping[str, str | float | Sequence[str]]


class Hardware(Protocol):
    """The names of the hardware of this host, the method tiers of its figures, and the missing components."""

    @property
    def processor(self) -> str: ...

    @property
    def gpus(self) -> Sequence[str]: ...

    @property
    def method(self) -> str: ...

    @property
    def missing(self) -> Sequence[str]: ...


def described(hardware: Hardware, factor: EmissionFactor) -> Attributes:
    """Resource attributes of the host and of the measuring method."""
    grid = factor.intensity
    attributes: dict[str, str | float | Sequence[str]] = {
        semconv.HOST_CPU_MODEL: hardware.processor,
        semconv.METHOD: hardware.method,
        semconv.ZONE: grid.zone,
        semconv.INTENSITY_G_PER_KWH: grid.g_per_kwh,
        semconv.INTENSITY_SOURCE: grid.source,
        semconv.PUE: factor.pue,
    }
    if hardware.gpus:
        attributes[semconv.GPU_MODELS] = hardware.gpus
    if hardware.missing:
        attributes[semconv.MISSING] = hardware.missing
    return attributes
