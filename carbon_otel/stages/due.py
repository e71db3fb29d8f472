"""When the checkpoints of a process are due."""

from __future__ import annotations

from collections.abc import Callable

from carbon_otel.units import NS_PER_S


class Due:
    """The next checkpoint, and the others `apart_s` seconds apart."""

    def __init__(self, clock_ns: Callable[[], int], apart_s: float) -> None:
        self._clock_ns = clock_ns
        self._begun_ns = clock_ns()
        self._doubles = False
        self.be_apart(apart_s)

    def be_apart(self, seconds: float) -> None:
        """Let the next checkpoint be due in so many seconds, and the others so far apart."""
        self._apart_ns = int(seconds * NS_PER_S)
        self._next_ns = self._clock_ns() + self._apart_ns

    def begin_at_once(self) -> None:
        """Let the next tick have a checkpoint, then one each time the age has doubled, until the usual interval.

        So a program that soon ends by `os._exit()`, for example, loses at most the later half of its time.
        """
        self._doubles = True
        self._next_ns = self._clock_ns()

    def take(self, now_ns: int, *, anyway: bool) -> bool:
        """Whether a checkpoint is due now, or taken `anyway`; the next one then counts from here."""
        if not anyway and now_ns < self._next_ns:
            return False
        age_ns = now_ns - self._begun_ns
        self._next_ns = now_ns + (min(age_ns, self._apart_ns) if self._doubles else self._apart_ns)
        return True
