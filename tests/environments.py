"""The environments of the programs that tests start."""

from __future__ import annotations

import os

_OURS = ("CARBON_OTEL_", "OTEL_")
# Programs of two tests that met would share the energy of what one of them measures.
_MEETING_PLACE = "CARBON_OTEL_RUNTIME_DIR"


def without_settings(*others: str) -> dict[str, str]:
    """This process's environment without settings of carbon_otel and OpenTelemetry, except the meeting place.

    Nor does it have variables whose names begin with one of `others`.
    """
    hidden = (*_OURS, *others)
    return {
        name: value
        for name, value in os.environ.items()
        if name == _MEETING_PLACE or not name.startswith(hidden)
    }
