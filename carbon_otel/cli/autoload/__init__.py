"""Measuring a program that knows nothing of it: `site/sitecustomize.py`, put first on its PYTHONPATH."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

SITE: Final = Path(__file__).parent / "site"


def variables(
    stage: str | None, journals: Path, children: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """What to add to the environment of a program to be measured; `journals` gets a file for each process.

    With `children`, the Python processes that it starts are loaded in the same way.
    """
    paths = [str(SITE), *filter(None, [environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(paths),
        "CARBON_OTEL_RUN_JOURNALS": str(journals),
        "CARBON_OTEL_RUN_STAGE": stage or "",
        "CARBON_OTEL_RUN_CHILDREN": "true" if children else "",
    }
