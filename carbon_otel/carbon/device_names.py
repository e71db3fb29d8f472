"""Names of accelerators, in the spellings of drivers, shops and people."""

from __future__ import annotations

import re
from typing import Final

# Words that drivers and shops put around a name.
_NOISE: Final = re.compile(r"nvidia|tesla|geforce|quadro|amd|instinct|intel|habana|google|cloud|gpu|hbm\d*e?")
_GAP: Final = re.compile(r"[^a-z0-9+]+")


def words(name: str) -> frozenset[str]:
    """The words that tell a device from others; drivers put them in any order: `NVIDIA A100 80GB PCIe`."""
    return frozenset(filter(None, _GAP.split(_NOISE.sub(" ", name.lower()))))


def key(name: str) -> str:
    """The name without spaces, hyphens and the words of makers."""
    return _GAP.sub("", _NOISE.sub("", name.lower()))
