"""Watts of an accelerator with its share of the host.

The regime says which part of the rated power the accelerators draw; the host factor adds processors, memory,
network, fans and power supplies. Rated power times utilisation (MFU) is not used: a chip that waits for memory
or for others draws most of its power all the same (8 H100 at 15 to 40 % MFU: 0.9 to 1.3 times their rated power
at the wall).

Within one node, no accelerator waits for a network. The power logs are of 8 accelerators and of 64 or more; for
the numbers between, the share goes from the one to the other with the logarithm of the number. So the number
cancels out of the energy up to 8 and from 64 on, and between, energy falls by 7 % in all. The host factor is one
for each accelerator: machines are made, and rented, with 1 to 8 of them. Who reserves a node of 8 and uses one
pays for its whole host, and gives the watts (`watts=`).
"""

from __future__ import annotations

import math
from typing import Final

from carbon_otel.forecast.hardware import Accelerator
from carbon_otel.forecast.records import Assumption, Interval, Scope
from carbon_otel.forecast.tables import rows

_ONE_NODE: Final = 8
_MANY_NODES: Final = 64
_COMPUTE_BOUND: Final = Interval(0.88, 0.95, 1.0)
_UNKNOWN: Final = Interval(0.74, 0.88, 0.98)
_SHARE_SOURCE: Final = (
    "MLPerf Training v4.0 power logs, 8 to 512 H100: 0.91 to 1.29 of the rated power at the wall, over "
    "the host factor"
)
HOST: Final = Interval(1.2, 1.3, 1.75)
_HOST_SOURCE: Final = (
    "MLPerf Training v4.0 nodes (1.25 to 1.35); high: 1.74, host and network, Morrison et al. 2026, "
    "arXiv 2605.01158"
)


def training_power(
    device: Accelerator, gpus: float | None, watts: float | None
) -> tuple[Interval, list[Assumption]]:
    """Watts per accelerator with its host during training, and the assumptions behind them.

    Args:
        device: the accelerator.
        gpus: how many work together; None takes many nodes.
        watts: measured watts, which go before any table.

    Raises:
        ValueError: if the power of the device is unknown and none is given.
    """
    if watts is not None:
        if not 0 < watts < float("inf"):
            raise ValueError(f"watts per accelerator are {watts}; write a number above 0")
        return Interval.exact(watts), [Assumption("power per accelerator", watts, watts, watts, "W", "given")]
    for row in rows("node_power"):
        if row["name"] == device.name:
            measured = Interval(float(row["low"]), float(row["watts"]), float(row["high"]))
            verified = row["verified"] == "yes"
            return measured, [
                _assumed("power per accelerator, with host", measured, "W", row["source"], verified)
            ]
    rated = _rated(device)
    share = _share(gpus)
    power = (share * HOST).times(rated.value)
    return power, [
        rated,
        _assumed("share of the rated power", share, "", _SHARE_SOURCE, True),
        _assumed("host factor", HOST, "", _HOST_SOURCE, False),
    ]


def scope_factor(scope: Scope) -> tuple[Interval, list[Assumption]]:
    """From the energy of the accelerators to that of a scope, without PUE."""
    if scope == "gpu":
        return Interval.exact(1.0), []
    host = [_assumed("host factor", HOST, "", _HOST_SOURCE, False)]
    if scope == "node":
        return HOST, host
    # Of Google's service, the accelerators take 58 %, hosts 25 %, idle machines 10 %, the site 8 %.
    idle = Interval(1.0, 1 + 10 / 83, 1.3)
    source = "Elsworth et al. 2025, arXiv 2508.15734: 10 % idle beside 83 % active; range: an estimate"
    return HOST * idle, [*host, _assumed("idle reserve of a service", idle, "", source, False)]


def _share(gpus: float | None) -> Interval:
    """The share of the rated power that so many accelerators draw."""
    if gpus is None:
        return _UNKNOWN
    beyond = math.log(max(gpus, _ONE_NODE) / _ONE_NODE) / math.log(_MANY_NODES / _ONE_NODE)
    part = min(1.0, beyond)
    pairs = zip(_COMPUTE_BOUND.as_dict().values(), _UNKNOWN.as_dict().values(), strict=True)
    return Interval(*(one + part * (many - one) for one, many in pairs))


def _rated(device: Accelerator) -> Assumption:
    if device.tdp_w is None:
        raise ValueError(f"the rated power of {device.name} is unknown; give watts per accelerator")
    watts = device.tdp_w
    return Assumption("rated power", watts, watts, watts, "W", device.source, device.verified("tdp_w"))


def _assumed(name: str, interval: Interval, unit: str, source: str, verified: bool) -> Assumption:
    return Assumption(name, interval.p50, interval.p10, interval.p90, unit, source, verified)
