"""The answers of services on disk, so that the processes of one user on a host ask each of them once.

One file for each provider, zone and interval, and one for the last failure of each provider: the pauses until the
next attempt grow. In a folder that cannot be used, nothing is kept, and each process asks for itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from carbon_otel.clock import monotonic, wall
from carbon_otel.private_files import make_folder, open_file, replace_file

try:
    import fcntl
except ImportError:  # Windows: processes may ask at the same time
    fcntl = None  # type: ignore[assignment] # a module has no value None

_LONGEST_WAIT_S: Final = 10.0
_POLL_S: Final = 0.05
_KEPT_S: Final = 40 * 86_400.0
_FIRST_PAUSE_S: Final = 30.0
_LONGEST_PAUSE_S: Final = 3600.0
_MOST_FAILURES: Final = 10


class Cache:
    """The files of one provider in a folder."""

    def __init__(self, folder: Path, provider: str) -> None:
        self._folder = folder
        self._provider = re.sub(r"[^\w-]", "_", provider)

    def get(self, *key: str) -> dict[str, Any] | None:
        """What was put under the key; None if there is nothing that can be read."""
        return self._read(self._path(*key))

    def put(self, content: dict[str, Any], *key: str) -> None:
        """Keep an answer, and drop the files that are older than 40 days."""
        self._write(self._path(*key), content)
        with contextlib.suppress(OSError):
            for path in self._folder.glob(f"{self._provider}-*.json"):
                if wall() - path.stat().st_mtime > _KEPT_S:
                    path.unlink(missing_ok=True)

    def pause(self) -> tuple[float, str]:
        """The seconds until the provider may be asked again, and the reason of its last failure."""
        failure = self._read(self._path("failure")) or {}
        until, reason = failure.get("until"), failure.get("reason")
        if not isinstance(until, (int, float)) or not isinstance(reason, str):
            return 0.0, ""
        # A clock that was set back must not extend the pause.
        return min(max(0.0, until - wall()), 24 * _LONGEST_PAUSE_S), reason

    def fail(self, reason: str, retry_after_s: float | None) -> None:
        """Remember a failure: the pauses double, up to an hour, or are what the service has asked for."""
        count = (self._read(self._path("failure")) or {}).get("count", 0)
        count = min(count + 1, _MOST_FAILURES) if isinstance(count, int) and count >= 0 else 1
        pause_s = min(_FIRST_PAUSE_S * 2 ** (count - 1), _LONGEST_PAUSE_S)
        until = wall() + max(pause_s, retry_after_s or 0.0)
        self._write(self._path("failure"), {"until": until, "count": count, "reason": reason})

    def succeed(self) -> None:
        """Forget the last failure."""
        with contextlib.suppress(OSError):
            self._path("failure").unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which no other process of the host asks this provider; entered after 10 s in any case."""
        descriptor = None
        try:
            make_folder(self._folder)
            descriptor = open_file(self._folder / f"{self._provider}.lock", os.O_RDWR | os.O_CREAT)
            if fcntl is not None:
                _lock(descriptor)
        except OSError:  # a folder of another user, a full disk: each process asks for itself
            pass
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def _path(self, *key: str) -> Path:
        name = "-".join(re.sub(r"[^\w.]", "_", part)[:40] for part in key)
        digest = hashlib.sha256("\0".join(key).encode()).hexdigest()[:8]
        return self._folder / f"{self._provider}-{name}-{digest}.json"

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            descriptor = open_file(path, os.O_RDONLY)
            with os.fdopen(descriptor, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):
            make_folder(self._folder)
            replace_file(path, json.dumps(content))


def _lock(descriptor: int) -> None:
    until = monotonic() + _LONGEST_WAIT_S
    while monotonic() < until:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_POLL_S)
        else:
            return
