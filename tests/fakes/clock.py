"""A clock that stands still until a test moves it."""

from __future__ import annotations

NS = 1_000_000_000


class Clock:
    """A call returns nanoseconds, as `time.monotonic_ns` does."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_ns = round(now_s * NS)

    def __call__(self) -> int:
        return self.now_ns

    def advance(self, seconds: float) -> None:
        self.now_ns += round(seconds * NS)
