"""The monotonic clock, also while a test of the application holds the clocks of the module `time` still.

freezegun and `unittest.mock` replace `time.monotonic`; a deadline that is set meanwhile would lie decades ahead.
They leave `clock_gettime` as it is, which reads the same clock.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final

monotonic: Final[Callable[[], float]] = (
    functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC)
    if hasattr(time, "CLOCK_MONOTONIC")
    else time.monotonic  # noqa: TID251 - Windows has no other
)
monotonic_ns: Final[Callable[[], int]] = (
    functools.partial(time.clock_gettime_ns, time.CLOCK_MONOTONIC)
    if hasattr(time, "CLOCK_MONOTONIC")
    else time.monotonic_ns  # noqa: TID251 - the same
)
