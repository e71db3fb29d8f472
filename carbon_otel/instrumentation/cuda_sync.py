"""Waits for the accelerator at the edges of a stage, so that the stage that queued the work is charged for it."""

from __future__ import annotations

import sys


def synchronize() -> None:
    """Synchronise CUDA if torch is imported and has initialised it. Imports and initialises nothing."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.synchronize()
