"""The names of tags that earlier versions wrote. Their stores stay readable, and nothing writes these names."""

from __future__ import annotations

from typing import Final

# Up to version 0.2, all provenance was in tags of its own, and each process had a tag with its id in the name.
PART: Final = "carbon.part."
# All figures of a window on the ledger.
WINDOW: Final = "carbon.window"
