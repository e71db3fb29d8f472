"""MLflow's two servers on loopback: the tracking server, and the one that serves a model."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.integration.processes import free_port, wait_for


class _Server:
    """A command that listens on `url`, in a separate process group; its output goes to a file."""

    def __init__(self, folder: Path, name: str, address: str = "127.0.0.1") -> None:
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()
        self.url = f"http://{address}:{self._port}"

    def _start(self, command: Sequence[str], environment: dict[str, str], path: str) -> None:
        with self._log.open("ab") as out:
            self._process = process = subprocess.Popen(
                command, stdout=out, stderr=out, cwd=self._folder, env=environment, start_new_session=True
            )

        def answers() -> bool:
            assert process.poll() is None, self.output()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}{path}", timeout=5):
                return True
            return False

        wait_for(answers, 180)

    def output(self) -> str:
        """The end of its output."""
        return self._log.read_text()[-3000:]

    def terminate(self) -> None:
        """Send SIGTERM to it and its workers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and its workers at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class MlflowServer(_Server):
    """`mlflow server` at a constant address, so that it can be killed and started again.

    `backend` is its store; artifacts are in `folder`. It listens on `address`.
    """

    def __init__(self, folder: Path, backend: str, workers: int = 1, address: str = "127.0.0.1") -> None:
        super().__init__(folder, "server", address)
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", address]
        self._command += ["--port", str(self._port), "--workers", str(workers)]
        self._command += ["--backend-store-uri", backend]
        self._command += ["--default-artifact-root", (folder / "artifacts").as_uri()]

    def start(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
        self._start(self._command, environment, "/health")


class ModelServer(_Server):
    """`mlflow models serve` with two workers, run by `carbon-otel run --children`."""

    def start(self, model_uri: str, variables: dict[str, str]) -> None:
        command = [sys.executable, "-m", "carbon_otel.cli", "run", "--children", "--zone", "FR", "--"]
        command += [sys.executable, "-m", "mlflow", "models", "serve", "-m", model_uri]
        command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(self._port)]
        self._start([*command, "--workers", "2"], {**os.environ, **variables}, "/ping")

    def predict(self, inputs: Sequence[int]) -> list[Any]:
        request = urllib.request.Request(
            f"{self.url}/invocations",
            json.dumps({"inputs": list(inputs)}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            predictions: list[Any] = json.load(answer)["predictions"]
            return predictions

    def wait_for_workers(self) -> None:
        """Wait until both workers have ended after `terminate`."""
        wait_for(lambda: self._log.read_text().count("Finished server process") >= 2)


@contextlib.contextmanager
def model_server(folder: Path, model_uri: str, **variables: str) -> Iterator[ModelServer]:
    server = ModelServer(folder, "serve")
    try:
        server.start(model_uri, variables)
        yield server
    finally:
        server.kill()
