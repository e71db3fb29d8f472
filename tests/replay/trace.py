"""Traces of a counter in a plain file, and powers whose energy is known in closed form."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

NS = 1_000_000_000


class Power:
    """Watts over time: `base` plus `swing` by the shape, with a period in seconds."""

    def __init__(self, shape: str, base: float = 100.0, swing: float = 80.0, period_s: float = 2.0) -> None:
        self.shape, self.base, self.swing, self.period_s = shape, base, swing, period_s

    def joules(self, t: float) -> float:
        """The exact integral of the power from 0 to t."""
        steady = self.base * t
        if self.shape == "constant":
            return steady
        periods, remainder = divmod(t, self.period_s)
        if self.shape == "square":  # on for a quarter of the period
            on = self.period_s / 4
            return steady + self.swing * (periods * on + min(remainder, on))
        if self.shape == "sine":
            turn = 2 * math.pi / self.period_s
            return steady + self.swing * (1 - math.cos(turn * remainder)) / turn
        if self.shape == "saw":  # a ramp from 0 to swing, again and again
            return steady + self.swing * (
                periods * self.period_s / 2 + remainder * remainder / (2 * self.period_s)
            )
        raise ValueError(self.shape)


class Load:
    """`busy_w` in some windows, (begin, end) in seconds, and `idle_w` between them."""

    def __init__(self, windows: Sequence[tuple[float, float]], idle_w: float, busy_w: float) -> None:
        self.windows, self.idle_w, self.more_w = windows, idle_w, busy_w - idle_w

    def joules(self, t: float) -> float:
        """The exact integral of the power from 0 to t."""
        busy_s = sum(max(0.0, min(t, end) - begin) for begin, end in self.windows)
        return self.idle_w * t + self.more_w * busy_s


@dataclass
class Trace:
    """Raw readings by the time at which the device begins to show them; None means unreadable."""

    unit_j: float
    wrap: int | None
    update_s: float
    most_w: float
    times_ns: list[int]
    raw: list[int | None]

    def at(self, now_ns: int) -> int | None:
        return self.raw[max(0, bisect_right(self.times_ns, now_ns) - 1)]

    def save(self, path: Path) -> None:
        wrap = "" if self.wrap is None else self.wrap
        lines = [f"# unit_j={self.unit_j!r} wrap={wrap} update_s={self.update_s!r} most_w={self.most_w!r}"]
        points = zip(self.times_ns, self.raw, strict=True)
        lines += [f"{t},{'' if raw is None else raw}" for t, raw in points]
        path.write_text("\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: Path) -> Trace:
        header, *lines = path.read_text().splitlines()
        fields = dict(part.split("=") for part in header.removeprefix("# ").split(" "))
        points = [line.split(",") for line in lines]
        return cls(
            unit_j=float(fields["unit_j"]),
            wrap=int(fields["wrap"]) if fields["wrap"] else None,
            update_s=float(fields["update_s"]),
            most_w=float(fields["most_w"]),
            times_ns=[int(t) for t, _ in points],
            raw=[int(raw) if raw else None for _, raw in points],
        )


def record(
    power: Power | Load,
    seconds: float,
    *,
    unit_j: float = 1e-6,
    wrap: int | None = 262_143_328_850,
    update_s: float = 0.001,
    jitter: float = 0.0,
    most_w: float = 500.0,
    start_j: float = 1000.0,
    resets: Iterable[float] = (),
    stuck: tuple[float, float] | None = None,
    gap: tuple[float, float] | None = None,
) -> Trace:
    """The readings of a counter for a power. Times of faults are seconds from the beginning."""
    rng = random.Random(7)
    trace = Trace(unit_j, wrap, update_s, most_w, [], [])
    resets = sorted(resets)
    for k in range(round(seconds / update_s) + 1):
        t = k * update_s
        if jitter and k:
            t += rng.uniform(-jitter, jitter) * update_s
        t_ns = round(t * NS)
        base_j = start_j
        for reset in resets:
            if t >= reset:
                base_j = -power.joules(reset)
        raw: int | None = math.floor((base_j + power.joules(t_ns / NS)) / unit_j + 1e-6)
        if wrap is not None:
            raw %= wrap
        if stuck and stuck[0] <= t < stuck[1]:
            raw = trace.raw[-1]
        if gap and gap[0] <= t < gap[1]:
            raw = None
        trace.times_ns.append(t_ns)
        trace.raw.append(raw)
    return trace
