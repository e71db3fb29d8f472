"""How many samples tell a process's share of a device's joules."""

from __future__ import annotations

from typing import Final

# The sum of J^2 / n over the shares before the present one, the device's joules at which that began, its n, and
# the joules up to which it has been charged for good.
Sampled = tuple[float, float, float, float]
NOT_SAMPLED: Final[Sampled] = (0.0, 0.0, 0.0, 0.0)


class SampledShare:
    """The shares so far, each of which charged J joules of the device and is the mean of n samples.

    Of a share that is no mean of samples, n is 0.
    """

    __slots__ = ("state",)

    def __init__(self) -> None:
        # Replaced as a whole: an exception may arrive between two assignments.
        self.state = NOT_SAMPLED[:3]

    def renew(self, device_j: float, samples: float) -> None:
        """From these joules of the device on, another share holds."""
        self.state = _up_to(self.state, device_j), device_j, samples


def doubt(before: Sampled, before_j: float, after: Sampled, after_j: float) -> float:
    """1 / n for the joules of the device between two moments, with n the equal samples that would tell as much.

    n is (sum of J)^2 / sum of (J^2 / n) over the shares of that time (L. Kish, Survey Sampling, 1965). What was
    charged by the first share only until the next was known has the errors of both.
    """
    joules = after_j - before_j
    if joules <= 0:
        return 0.0
    if before[:3] == after[:3]:
        return 1 / after[2] if after[2] else 0.0
    sum_j2, since_j, samples, settled_j = before
    ahead_j2 = (before_j - settled_j) ** 2 / samples if samples else 0.0
    later_j2 = _up_to(after[:3], after_j) - _up_to((sum_j2, since_j, samples), settled_j)
    return (later_j2 + ahead_j2) / joules**2


def _up_to(state: tuple[float, float, float], device_j: float) -> float:
    sum_j2, since_j, samples = state
    return sum_j2 + (device_j - since_j) ** 2 / samples if samples else sum_j2
