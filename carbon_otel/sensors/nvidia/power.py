"""The power of a GPU without an energy counter, from the best of its readings.

In this order:

1. the instantaneous power of the GPU (NVML field 186);
2. `nvmlDeviceGetPowerUsage`: instantaneous up to GA100, the mean of the last second on the other Ampere GPUs
   and newer ones (NVML API reference);
3. the mean power of the last second (field 185);
4. the same fields of the module, on superchips whose GPU has no separate reading; they include the processor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from carbon_otel.sensors.base import SensorError
from carbon_otel.sensors.nvidia.library import Nvml
from carbon_otel.units import MILLI

_AVERAGE: Final = 185
_INSTANT: Final = 186
_GPU: Final = 0
_MODULE: Final = 1
# The members of nvmlValue_t in the order of nvmlValueType_t.
_MEMBERS: Final = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@dataclass(frozen=True, slots=True)
class PowerSource:
    """`read(handle)` returns watts and raises NVML's error or SensorError."""

    name: str
    read: Callable[[Any], float]
    whole_module: bool = False


def power_source(nvml: Nvml, handle: Any, most_w: float) -> PowerSource:
    """The first source that returns a power up to `most_w`. Raises SensorError if there is none."""
    reasons: list[str] = []
    for source in _sources(nvml, most_w):
        try:
            source.read(handle)
        except (nvml.error, SensorError) as error:
            reasons.append(str(error))
        else:
            return source
    raise SensorError(f"no power reading: {', '.join(dict.fromkeys(reasons))}")


def _sources(nvml: Nvml, most_w: float) -> Iterator[PowerSource]:
    def field(number: int, scope: int) -> Callable[[Any], float]:
        def watts(handle: Any) -> float:
            value = nvml.api.nvmlDeviceGetFieldValues(handle, [(number, scope)])[0]
            if value.nvmlReturn != nvml.api.NVML_SUCCESS:
                raise nvml.error(value.nvmlReturn)
            return _plausible(_number(value) * MILLI, most_w)

        return watts

    def usage(handle: Any) -> float:
        return _plausible(nvml.api.nvmlDeviceGetPowerUsage(handle) * MILLI, most_w)

    yield PowerSource("NVML instantaneous power", field(_INSTANT, _GPU))
    yield PowerSource("NVML power usage", usage)
    yield PowerSource("NVML average power", field(_AVERAGE, _GPU))
    yield PowerSource("NVML instantaneous power of the module", field(_INSTANT, _MODULE), whole_module=True)
    yield PowerSource("NVML average power of the module", field(_AVERAGE, _MODULE), whole_module=True)


def _number(value: Any) -> float:
    if not 0 <= value.valueType < len(_MEMBERS):
        raise SensorError(f"NVML field {value.fieldId} has the unknown type {value.valueType}")
    return float(getattr(value.value, _MEMBERS[value.valueType]))


def _plausible(watts: float, most_w: float) -> float:
    # A GPU that answers draws power; some drivers report 0 if the power is unknown.
    if not 0 < watts <= most_w:
        raise SensorError(f"{watts:g} W is out of range for a GPU limited to {most_w / 2:g} W")
    return watts
