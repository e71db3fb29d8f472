"""Fixtures of the integration tests: fake packages, programs, OTLP receivers, MLflow stores."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.drawing import Drawing
from tests.fakes.powercap import Tree, server
from tests.integration import processes, receivers
from tests.integration.servers import MlflowServer
from tests.integration.stores import EmptyStore


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return server(tmp_path)


@pytest.fixture
def drawing(tmp_path: Path) -> Iterator[Drawing]:
    """A package that draws 20 W as long as the test runs."""
    with Drawing(server(tmp_path / "sys"), zones=1, watts=20) as drawing:
        yield drawing


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Drawing]:
    """Two packages that draw 40 W each as long as the test runs."""
    with Drawing(server(tmp_path / "sys"), zones=2, watts=40) as drawing:
        yield drawing


@pytest.fixture
def launch() -> Iterator[Callable[..., processes.Program]]:
    """Starts programs, and ends them after the test."""
    started: list[processes.Program] = []

    def start(name: str, *arguments: str, **variables: str) -> processes.Program:
        started.append(processes.Program(name, *arguments, **variables))
        return started[-1]

    yield start
    for program in started:
        if program.process.poll() is None:
            program.process.kill()
        program.process.communicate()


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    return processes.free_port


@pytest.fixture
def sink() -> Iterator[receivers.Sink]:
    with receivers.serving(receivers.Receiver) as receiver:
        yield receiver


@pytest.fixture
def refusing() -> Iterator[str]:
    """The address of a collector that refuses connections."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))  # and never listens
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a collector that accepts connections (the kernel does) and never answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(16)
        yield f"http://127.0.0.1:{s.getsockname()[1]}"


@pytest.fixture
def unavailable() -> Iterator[str]:
    """The address of a collector that answers 503."""
    with receivers.serving(receivers.Unavailable) as receiver:
        yield receiver.url


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> EmptyStore:
    """`empty_store.copy(folder)` is a fresh MLflow store; the original is shared by all workers."""
    folder = tmp_path_factory.getbasetemp()
    return EmptyStore(folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder)


@pytest.fixture(scope="session")
def tracking_server(
    tmp_path_factory: pytest.TempPathFactory, empty_store: EmptyStore
) -> Iterator[MlflowServer]:
    """One MLflow server for the tests of a worker that do not stop it. Each test uses a separate experiment."""
    folder = tmp_path_factory.mktemp("server")
    web = MlflowServer(folder, empty_store.copy(folder))
    web.start()
    yield web
    web.kill()
