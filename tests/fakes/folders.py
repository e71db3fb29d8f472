"""Folders that this user may not enter, also where the tests run as root, who may enter all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def forbid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every call of the system for the folder, and for what is below it, fail as without permission."""
    for name in ("open", "mkdir", "stat", "lstat", "scandir", "listdir", "unlink", "access"):
        monkeypatch.setattr(os, name, _forbidding(getattr(os, name), str(folder)))


def _forbidding(function: Callable[..., Any], folder: str) -> Callable[..., Any]:
    def forbidden(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if isinstance(path, (str, os.PathLike)) and (
            f"{path}" == folder or f"{path}".startswith(f"{folder}/")
        ):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return function(path, *arguments, **options)

    return forbidden
