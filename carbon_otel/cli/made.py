"""When a page was made, and by which command."""

from __future__ import annotations

import shlex
import sys
from datetime import datetime, timezone

from carbon_otel.pages.environment import Made


def made() -> Made:
    """Of this command, as it was typed."""
    return Made(datetime.now(timezone.utc), shlex.join(["carbon-otel", *sys.argv[1:]]))
