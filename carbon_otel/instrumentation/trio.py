"""trio: it finds `signal.set_wakeup_fd` as Python leaves it, and so warns of no other library."""

from __future__ import annotations

from types import ModuleType

from carbon_otel import termination
from carbon_otel.instrumentation.base import Undo


class TrioIntegration:
    """Leaves the descriptor to trio."""

    module = "trio"

    def connect(self, module: ModuleType) -> Undo:
        termination.give_way()
        return lambda: None
