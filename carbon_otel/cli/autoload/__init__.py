"""Measuring a program that knows nothing of it: `site/sitecustomize.py`, put first on its PYTHONPATH.

Only the program itself is measured: the variables that load us are gone before it starts, so Python processes it
starts in turn do not count again what it counts.
"""

from __future__ import annotations

import atexit
import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import Final

_SITE: Final = str(Path(__file__).parent / "site")
_JOURNAL: Final = "CARBON_OTEL_JOURNAL"
_STAGE: Final = "CARBON_OTEL_RUN_STAGE"


def variables(stage: str | None, journal: Path) -> dict[str, str]:
    """What to add to the environment of the program to be measured."""
    paths = [_SITE, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), _JOURNAL: str(journal), _STAGE: stage or ""}


def load() -> None:
    """Called as the program's interpreter starts. Whatever fails here is logged; the program runs."""
    paths = [path for path in os.environ.pop("PYTHONPATH", "").split(os.pathsep) if path and path != _SITE]
    if paths:
        os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    sys.path[:] = [path for path in sys.path if path != _SITE]
    kind = os.environ.pop(_STAGE, "")

    import carbon_otel
    from carbon_otel.faults import contain

    contain("measuring the program", carbon_otel.instrument, None)
    os.environ.pop(_JOURNAL, None)
    if kind:
        whole = carbon_otel.stage(kind)
        whole.__enter__()
        # Registered after the session's own end, so it runs before it.
        atexit.register(whole.__exit__, None, None, None)


def chain() -> None:
    """Run the `sitecustomize` that ours stands before, if there is one."""
    spec = PathFinder.find_spec("sitecustomize", sys.path)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
