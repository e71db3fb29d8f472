"""AMD GPUs through amdsmi (extra `amd`): the energy accumulator times its resolution, about 15.3 uJ.

The accumulator is wrong on some drivers (ROCm/amdsmi issue 38), so it is first compared with the power reading for
50 ms. If it differs by an order of magnitude, the power is read instead.

An MI250 has two dies that appear as two GPUs. The sensors of the first die measure both, those of the second read
zero. A process that may use either die is charged with the card.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from carbon_otel.provenance import Band
from carbon_otel.sensors.amd.visible import visible
from carbon_otel.sensors.base import Device, Finding, Sensor, SensorError
from carbon_otel.units import MICRO

DRIVER: Final = Path("/sys/module/amdgpu")

_CHECK_S: Final = 0.05
_BELIEVED: Final = (0.1, 10.0)
_FALLBACK_LIMIT_W: Final = 1000.0
_COUNTER = Band(0.95, 1.05, "amdsmi energy accumulator: +-5 %, our estimate after NVML's", "estimate")
_POWER = Band(0.90, 1.10, "amdsmi power polled at 1 Hz: +-10 %, our estimate after NVML's", "estimate")


@dataclass(frozen=True, slots=True)
class _Gpu:
    """One GPU as amdsmi lists it. `hip` is HIP's index of it when no GPU is hidden."""

    handle: Any
    hip: int
    uuid: str
    name: str
    most_w: float


class AmdGpu:
    """One GPU. `kind` is `power` (watts) if its accumulator is missing or wrong."""

    wrap = None
    tick_interval_s = 0.0
    update_period_s = 0.001
    edge_interval_s = 0.01

    def __init__(self, api: Any, gpu: _Gpu, kind: Literal["counter", "power"], name: str) -> None:
        self._api = api
        self._handle = gpu.handle
        self.kind: Literal["counter", "power"] = kind
        self.power_bounds_w = (0.0, gpu.most_w)
        # `read` returns joules: the accumulator's unit may change with the driver.
        self.joules_per_unit = 1.0
        counted = kind == "counter"
        self.quantum_s = self.update_period_s if counted else 0.0
        self.device = Device(
            id=gpu.uuid,
            type="gpu",
            name=name,
            method="measured.counter" if counted else "measured.power",
            band=_COUNTER if counted else _POWER,
            source=f"amdsmi {'energy accumulator' if counted else 'socket power'}",
        )

    def read(self) -> float:
        return _energy_j(self._api, self._handle) if self.kind == "counter" else self._power_w()

    def close(self) -> None:
        """Does nothing: amdsmi stays initialised, because the application may use it."""

    def _power_w(self) -> float:
        watts = _power_w(self._api, self._handle)
        if watts is None or watts > self.power_bounds_w[1]:
            raise SensorError(f"{self.device.id}: amdsmi returned {watts} W")
        return watts


def find(
    driver: Path = DRIVER, wait: Callable[[float], None] = time.sleep
) -> tuple[list[Sensor], list[Finding]]:
    """The AMD GPUs that this process may use; none without the kernel's driver. Never raises."""
    if not driver.exists():
        return [], []
    try:
        api = _library()
        gpus = _listed(api)
    except Exception as error:  # noqa: BLE001 - amdsmi's import alone raises half a dozen kinds
        return [], [_unavailable(error)]
    chosen = visible([(gpu.hip, gpu.uuid) for gpu in gpus])
    cards = [gpus[i] for i in dict.fromkeys(_die_that_measures(gpus, position) for position in chosen)]
    if not cards:
        return [], [
            Finding("gpu", "missing", "none", reason="the environment hides all GPUs from this process")
        ]
    sensors: list[Sensor] = []
    findings: list[Finding] = []
    for gpu, kind in zip(cards, _kinds(api, cards, wait), strict=True):
        if kind is None:
            reason = "amdsmi reads neither its energy nor its power (a virtual machine's guest cannot)"
            findings.append(Finding("gpu", "missing", f"{gpu.name} ({gpu.uuid})", reason, unmetered=True))
            continue
        name = f"{gpu.name} (both dies)" if _is_dual(gpu) else gpu.name
        sensor = AmdGpu(api, gpu, kind, name)
        sensors.append(sensor)
        reason = "" if kind == "counter" else "its energy accumulator does not agree with its power"
        findings.append(Finding("gpu", sensor.device.method, f"{name} ({gpu.uuid})", reason))
    return sensors, findings


def _library() -> Any:
    """amdsmi, initialised.

    Its import prints an error if it finds no library; that is suppressed, because the finding reports it.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        api = importlib.import_module("amdsmi")
    api.amdsmi_init(api.AmdSmiInitFlags.INIT_AMD_GPUS)
    return api


def _unavailable(error: Exception) -> Finding:
    component = "AMD GPU"
    if isinstance(error, ModuleNotFoundError):
        fix = "pip install 'carbon-otel[amd]', in the version of your ROCm"
        return Finding(
            "gpu", "missing", component, "the package amdsmi is not installed", fix, unmetered=True
        )
    fix = "install ROCm's amd-smi-lib, and the amdsmi of the same version"
    return Finding(
        "gpu", "missing", component, f"amdsmi: {str(error) or type(error).__name__}", fix, unmetered=True
    )


def _listed(api: Any) -> list[_Gpu]:
    """Every GPU in HIP's order, which differs from amdsmi's order on some nodes."""
    gpus = []
    for position, handle in enumerate(api.amdsmi_get_processor_handles()):
        ask = partial(_ask, api, handle)
        hip = ask("amdsmi_get_gpu_enumeration_info", "hip_id")
        uuid = ask("amdsmi_get_gpu_device_uuid") or f"amd-gpu-{position}"
        name = ask("amdsmi_get_gpu_asic_info", "market_name") or "AMD GPU"
        cap_uw = ask("amdsmi_get_power_cap_info", "max_power_cap") or 0
        most_w = 2 * cap_uw * MICRO if 0 < cap_uw < 1e10 else 2 * _FALLBACK_LIMIT_W
        gpus.append(_Gpu(handle, hip if isinstance(hip, int) else position, uuid, name, most_w))
    return sorted(gpus, key=lambda gpu: gpu.hip)


def _ask(api: Any, handle: Any, question: str, key: str | None = None) -> Any:
    """The answer of amdsmi, or None if it has none."""
    try:
        answer = getattr(api, question)(handle)
        return answer if key is None else answer[key]
    except (api.AmdSmiException, AttributeError, UnicodeDecodeError, KeyError, ValueError):
        return None


def _is_dual(gpu: _Gpu) -> bool:
    return "MI250" in gpu.name


def _die_that_measures(gpus: Sequence[_Gpu], position: int) -> int:
    return position - position % 2 if _is_dual(gpus[position]) else position


def _kinds(
    api: Any, gpus: Sequence[_Gpu], wait: Callable[[float], None]
) -> list[Literal["counter", "power"] | None]:
    """The kind of reading of each GPU: the accumulator if it agrees with the power, else the power, else None."""
    powers = [_power_w(api, gpu.handle) for gpu in gpus]
    before = [_energy_or_none(api, gpu) for gpu in gpus]
    began = time.perf_counter()
    wait(_CHECK_S)
    elapsed = max(_CHECK_S, time.perf_counter() - began)
    after = [_energy_or_none(api, gpu) for gpu in gpus]
    kinds: list[Literal["counter", "power"] | None] = []
    for power, first, last in zip(powers, before, after, strict=True):
        if power and first is not None and last is not None:
            ratio = (last - first) / (power * elapsed)
            kinds.append("counter" if _BELIEVED[0] < ratio < _BELIEVED[1] else "power")
        else:
            kinds.append("power" if power else None)
    return kinds


def _energy_or_none(api: Any, gpu: _Gpu) -> float | None:
    try:
        return _energy_j(api, gpu.handle)
    except SensorError:
        return None


def _energy_j(api: Any, handle: Any) -> float:
    try:
        count = api.amdsmi_get_energy_count(handle)
    except api.AmdSmiException as error:
        raise SensorError(f"amdsmi: {error}") from error
    # amdsmi before 6.2.1 called the accumulator `power`.
    units = count.get("energy_accumulator", count.get("power"))
    joules = (units or 0) * count["counter_resolution"] * MICRO
    if units is None or not 0 <= joules < math.inf:
        raise SensorError(f"amdsmi counts {units} units of {count['counter_resolution']} uJ")
    return float(joules)


def _power_w(api: Any, handle: Any) -> float | None:
    """Watts of the socket now, else its recent mean; None if amdsmi has neither."""
    try:
        info = api.amdsmi_get_power_info(handle)
    except api.AmdSmiException:
        return None
    for key in ("current_socket_power", "average_socket_power", "socket_power"):
        watts = info.get(key)
        if isinstance(watts, int) and 0 < watts < 2**31:
            return float(watts)
    return None
