"""The formula of EcoLogits (MPL-2.0; written anew from its documentation), with its coefficients."""

from __future__ import annotations

import math
from typing import NamedTuple

ALPHA, BETA, GAMMA = 1.1665273170451914e-06, -0.011205921025579175, 4.052928146734005e-05
BATCH = 64
_LATENCY = (0.0006785088094353663, 0.0003119310311688259, 0.019473717579473387)
_GPU_KG = {"0.9.3": 164, "0.11.3": 273}
_SERVER_KG, _SERVER_KW, _SERVER_GPUS, _GPU_GB, _LIFE_S = 5700, 1.2, 8, 80, 3 * 365 * 86400


class EcoLogits(NamedTuple):
    """Kilowatt-hours with PUE, and embodied kilograms, of a request."""

    energy_kwh: float
    embodied_kg: float


def gpu_wh_per_token(active_b: float, batch: float = BATCH) -> float:
    """Watt-hours of one accelerator for one generated token."""
    return ALPHA * math.exp(BETA * batch) * active_b + GAMMA


def gpus(total_b: float) -> int:
    """Accelerators of 80 GB, a power of two, for 16-bit weights."""
    return int(2 ** math.ceil(math.log2(math.ceil(1.2 * total_b * 16 / 8 / _GPU_GB))))


def ecologits(active_b: float, total_b: float, output_tokens: float, pue: float, version: str) -> EcoLogits:
    """A request, without a limit of its latency."""
    a, b, c = _LATENCY
    seconds = output_tokens * (a * active_b + b * BATCH + c)
    number = gpus(total_b)
    server = seconds / 3600 * _SERVER_KW * number / _SERVER_GPUS / BATCH
    energy = pue * (server + number * output_tokens * gpu_wh_per_token(active_b) / 1000)
    kg = number / _SERVER_GPUS * _SERVER_KG + number * _GPU_KG[version]
    return EcoLogits(energy, seconds * kg / (_LIFE_S * BATCH))
