"""Resource attributes: what is true of a measured process as long as it runs.

What may change, such as the intensity of the grid, is on points and spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from carbon_otel.ranks import group
from carbon_otel.semconv import names as semconv
from carbon_otel.semconv.attributes import rank_attributes

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
    """Resource attributes of the hardware, the place and the measuring method."""
    attributes: dict[str, str | float | Sequence[str]] = {
        semconv.HOST_CPU_MODEL: hardware.processor,
        semconv.METHOD: hardware.method,
        semconv.ZONE: factor.intensity.zone,
        semconv.PUE: factor.pue,
    }
    rank = group.look()
    if rank is not None:
        attributes |= rank_attributes(rank)
    if hardware.gpus:
        attributes[semconv.GPU_MODELS] = hardware.gpus
    if hardware.missing:
        attributes[semconv.MISSING] = hardware.missing
    return attributes
