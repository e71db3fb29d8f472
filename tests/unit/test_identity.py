"""Which processes are gone."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from carbon_otel.host.identity import boot, identity, is_gone


def test_this_process_is_there():
    assert not is_gone(identity())


def test_one_that_has_ended_is_gone():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    said = identity(process.pid)
    assert not is_gone(said)
    process.communicate(b"\n")
    assert is_gone(said)


def test_another_that_has_its_number_now_is_not_it():
    assert is_gone(identity().rpartition("/")[0] + "/1")


def test_before_the_host_was_started_anew():
    assert is_gone(identity().replace(boot(), "another"))


def test_of_another_container_nobody_can_tell():
    """Its host's name and start may be ours, on the host's network."""
    host, booted, namespace, _, began = identity().split("/")
    assert not is_gone(f"{host}/{booted}/{namespace}9/4194304/{began}")


@pytest.mark.parametrize("said", ["", "elsewhere/x/1/2", "nonsense", f"{socket.gethostname()}/1/2/3"])
def test_of_what_is_elsewhere_nobody_can_tell(said):
    assert not is_gone(said)
