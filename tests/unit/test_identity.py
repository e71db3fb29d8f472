"""Identities of processes, and whether they have ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import psutil
import pytest

from carbon_otel.host.identity import ProcessName, boot, identity, is_gone, this_process


def test_this_process_has_not_ended():
    assert not is_gone(identity())


def test_an_ended_process_is_recognised():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = identity(process.pid)
    assert not is_gone(known)
    process.communicate(b"\n")
    assert is_gone(known)


def test_another_process_with_the_same_id_is_a_different_one():
    assert is_gone(identity().rpartition("/")[0] + "/1")


def test_a_process_of_an_earlier_boot_has_ended():
    assert is_gone(identity().replace(boot(), "another"))


def test_the_end_of_a_process_of_another_container_is_unknown():
    """A container on the host's network has the same host name and boot."""
    host, booted, namespace, _, began = identity().split("/")
    assert not is_gone(f"{host}/{booted}/{namespace}9/4194304/{began}")


@pytest.mark.parametrize("known", ["", "elsewhere/x/1/2", "nonsense", f"{socket.gethostname()}/1/2/3"])
def test_the_end_of_a_process_of_another_host_is_unknown(known):
    assert not is_gone(known)


def test_the_name_of_a_process_can_be_read_back():
    own = this_process()
    assert ProcessName.parse(str(own)) == own and own.pid == os.getpid()
    for text in ("", "7", "7.1", "x.1.1", "7.1.1.1", "7..1", "split.json", "device-book", "../7.1.1"):
        assert ProcessName.parse(text) is None, text


def test_a_process_has_a_name_where_proc_is_not_mounted(monkeypatch):
    def hidden(pid):
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", hidden)
    assert ProcessName.parse(str(this_process())) == this_process()
