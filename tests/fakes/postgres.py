"""A PostgreSQL for tests: Debian's package, a cluster in a temporary folder, on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


def programs() -> Path | None:
    """The folder of the server's programs in Debian; None if it is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextlib.contextmanager
def running() -> Iterator[str]:
    """The address of a database, for SQLAlchemy. The database is removed afterwards."""
    binaries = programs()
    assert binaries is not None, "Debian's package postgresql is not installed"
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))  # the path of its socket must be short
    prefix: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    data = folder / "data"

    def command(program: str, *arguments: str | Path) -> list[str]:
        return [*prefix, str(binaries / program), "-D", str(data), *map(str, arguments)]

    subprocess.run(
        command("initdb", "-U", "test", "-A", "trust"), check=True, stdout=subprocess.DEVNULL, cwd="/"
    )
    options = [f"-p{port}", "-h127.0.0.1", f"-k{folder}", "-cfsync=off"]
    server = subprocess.Popen(
        command("postgres", *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/"
    )
    try:
        ready = [
            str(binaries / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "test",
            "-d",
            "postgres",
        ]
        deadline = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode != 0:
            assert server.poll() is None and time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.1)
        yield f"postgresql+psycopg2://test@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run(
            command("pg_ctl", "stop", "-m", "immediate"),
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        server.wait(timeout=30)
        shutil.rmtree(folder, ignore_errors=True)
