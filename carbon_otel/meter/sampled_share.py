"""How many samples tell a process's share of a device's joules."""

from __future__ import annotations

from typing import Final

# The sum of J^2 / n over the shares before the present one, the device's joules at which that began, and its n.
Sampled = tuple[float, float, float]
NOT_SAMPLED: Final[Sampled] = (0.0, 0.0, 0.0)


class SampledShare:
    """The shares so far, each of which charged J joules of the device and is the mean of n samples.

    Of a share that is no mean of samples, n is 0.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        # Replaced as a whole: an exception may arrive between two assignments.
        self.state = NOT_SAMPLED

    def renew(self, device_j: float, samples: float) -> None:
        """From these joules of the device on, another share holds."""
        self.state = _up_to(self.state, device_j), device_j, samples


def doubt(before: Sampled, before_j: float, after: Sampled, after_j: float) -> float:
    """1 / n for the joules of the device between two moments, with n the equal samples that would tell as much.

    n is (sum of J)^2 / sum of (J^2 / n) over the shares of that time (L. Kish, Survey Sampling, 1965). It is less
    where a share held before that time, too.
    """
    joules = after_j - before_j
    if joules <= 0:
        return 0.0
    if before == after:
        return 1 / after[2] if after[2] else 0.0
    return max(0.0, _up_to(after, after_j) - _up_to(before, before_j)) / joules**2


def _up_to(state: Sampled, device_j: float) -> float:
    sum_j2, since_j, samples = state
    return sum_j2 + (device_j - since_j) ** 2 / samples if samples else sum_j2
