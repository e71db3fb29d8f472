"""Measures a program without changing it: `site/sitecustomize.py` comes first on its PYTHONPATH."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SITE: Final = Path(__file__).parent / "site"


def variables(
    stage: str | None, journals: Path, children: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Environment variables that make a program measure itself; each process writes a file to `journals`.

    With `children`, the Python processes that it starts are measured too.
    """
    paths = [str(SITE), *filter(None, [environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "CARBON_OTEL_RUN_JOURNALS": str(journals),
        "CARBON_OTEL_RUN_STAGE": stage or "",
        "CARBON_OTEL_RUN_CHILDREN": "true" if children else "",
    }
