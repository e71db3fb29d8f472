"""Exports of metrics before their regular interval, so that a kill loses little.

By default, metrics leave every minute. The energy of a stage that has ended leaves with the next tick of the
sampler, so a kill loses one second of it; that of open stages leaves at each checkpoint, as it does to MLflow.

A service that ends stages all the time would export each second for ever, sixty times as often as without. So the
exports for ended stages are paid from an account: it allows sixty at once, and gets one every ten seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from carbon_otel import clock

_AT_ONCE: Final = 60.0
_EVERY_S: Final = 10.0


class EarlyExports:
    """Decides, after each tick, whether metrics are exported now.

    `stage_ended` and `checkpoint` are set to true when a stage has ended, and when a checkpoint of open stages was
    made; plain attributes, since stages end often.
    """

    def __init__(self, export: Callable[[], bool]) -> None:
        """`export` begins an export; False if one is under way."""
        self.stage_ended = self.checkpoint = False
        self._export = export
        self._account = _AT_ONCE
        self._counted_s = clock.monotonic()

    def send_if_due(self) -> None:
        """Export, if there is a reason to."""
        at_checkpoint = self.checkpoint
        if not (self.stage_ended or at_checkpoint):
            return
        now_s = clock.monotonic()
        self._account = min(_AT_ONCE, self._account + (now_s - self._counted_s) / _EVERY_S)
        self._counted_s = now_s
        if self._account < 1 and not at_checkpoint:
            return
        # Before the export: a stage may end while it begins.
        self.stage_ended = self.checkpoint = False
        if not self._export():
            self.stage_ended, self.checkpoint = True, at_checkpoint
        elif not at_checkpoint:
            self._account -= 1
