"""hwmon folders with the kernel's layout."""

from __future__ import annotations

from pathlib import Path


def chip(base: Path, name: str, slot: str, number: int, **files: object) -> Path:
    """A chip's hwmon folder below `base/hwmon`, which points to its device below `base/devices`."""
    device = base / "devices" / slot
    folder = base / "hwmon" / f"hwmon{number}"
    device.mkdir(parents=True)
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(device)
    fill(folder, name=name, **files)
    return folder


def fill(folder: Path, **files: object) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())
