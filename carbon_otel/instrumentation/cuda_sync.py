"""Wait for the accelerator at a stage's edge, so that queued work is paid by the stage that queued it."""

from __future__ import annotations

import sys


def synchronize() -> None:
    """Synchronise CUDA, if torch is imported and has it in use; never starts either."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.synchronize()
