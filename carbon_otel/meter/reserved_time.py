"""What the time is worth for which this process has reserved its hardware, idle or not."""

from __future__ import annotations

from collections.abc import Sequence

from carbon_otel.records import Shares
from carbon_otel.units import S_PER_NS


class ReservedTime:
    """A sum that grows by a rate for the host and one for each device, each times this process's share of it.

    The rates are amounts per second. The shares of processes that share a host add up to one, and so do their sums
    to what the whole host is worth.
    """

    def __init__(self, host_rate: float, device_rates: Sequence[float], shares: Shares, now_ns: int) -> None:
        self._host_rate = host_rate
        # A share that is not counted need not be multiplied.
        self._rates = [(index, rate) for index, rate in enumerate(device_rates) if rate]
        self._total = 0.0
        # The sum at the last change of the shares, that moment, and the rate of all together since. One tuple: an
        # exception may arrive between two assignments.
        self._base = 0.0, now_ns, self._rate(shares)

    def up_to(self, now_ns: int) -> float:
        """The sum up to `now_ns`; never less than in an earlier call."""
        before, since_ns, rate = self._base
        total = before + rate * (now_ns - since_ns) * S_PER_NS
        if total > self._total:
            self._total = total
        return self._total

    def settle(self, measured: Shares, now_ns: int) -> None:
        """The shares of the time since the last call, and from now on until the next one."""
        before, since_ns, _ = self._base
        rate = self._rate(measured)
        self._base = before + rate * (now_ns - since_ns) * S_PER_NS, now_ns, rate

    def _rate(self, shares: Shares) -> float:
        return self._host_rate * shares.reserved + sum(
            [rate * shares.devices[index] for index, rate in self._rates]
        )
