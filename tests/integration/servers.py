"""A real MLflow server on loopback, to be killed and started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path


class MlflowServer:
    """`mlflow server`, always at the same address; its database is a sqlite file in `folder`, or at `backend`."""

    def __init__(self, folder: Path, workers: int = 1, backend: str | None = None) -> None:
        self._folder = folder
        self._backend = backend or f"sqlite:///{folder}/mlflow.db"
        self._workers = workers
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self._port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 180) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)]
        command += ["--workers", str(self._workers)]
        command += ["--backend-store-uri", self._backend]
        command += ["--default-artifact-root", (self._folder / "artifacts").as_uri()]
        log = self._folder / "server.log"
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=self._folder, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.2)

    def kill(self) -> None:
        """It and its workers, at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
