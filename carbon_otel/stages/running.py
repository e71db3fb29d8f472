"""How long a loop has run in its thread, and how much of that is known to be the loop."""

from __future__ import annotations


class Running:
    """The time of one loop, without its pauses. Only its own thread writes, but for `see` and `stop`.

    Of a loop that `fades` the end is not seen: it runs until it was last seen, and what follows is a guess until
    it is seen again. `begun_ns` is when it last began or went on; 0 in a pause.
    """

    __slots__ = ("_done_ns", "_other_ns", "_seen_ns", "begun_ns", "fades")

    def __init__(self, begun_ns: int, *, fades: bool) -> None:
        self.fades = fades
        self.begun_ns = begun_ns
        self._done_ns = self._other_ns = self._seen_ns = 0

    def ran_ns(self, now_ns: int) -> int:
        """How long it has run, if it still does."""
        begun_ns = self.begun_ns
        running_ns = max(0, now_ns - begun_ns) if begun_ns else 0
        return max(0, self._done_ns + running_ns - self._other_ns)

    def sure_ns(self, now_ns: int) -> int:
        """How long it has run for certain."""
        ran_ns = self.ran_ns(now_ns)
        return min(self._seen_ns, ran_ns) if self.fades else ran_ns

    def see(self, now_ns: int) -> None:
        """It is seen to run."""
        # `ran_ns`, in place: a loop is seen with each batch, and each call costs.
        begun_ns, seen_ns = self.begun_ns, self._done_ns - self._other_ns
        if begun_ns and now_ns > begun_ns:
            seen_ns += now_ns - begun_ns
        self._seen_ns = seen_ns if seen_ns > 0 else 0

    def pause(self, now_ns: int) -> None:
        if self.begun_ns:
            self._done_ns, self.begun_ns = self._done_ns + now_ns - self.begun_ns, 0

    def resume(self, now_ns: int) -> None:
        self.begun_ns = now_ns

    def stop(self, now_ns: int) -> None:
        """It is over, since it was last seen if it fades."""
        self.pause(now_ns)
        self._done_ns = self.sure_ns(now_ns) + self._other_ns

    def elsewhere(self, ns: int) -> None:
        """Something that runs in it has its own time."""
        self._other_ns += ns
