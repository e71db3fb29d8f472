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
    fields = identity().split("/")
    fields[4] = "1"
    assert is_gone("/".join(fields))


@pytest.fixture
def own_machine(monkeypatch):
    """This process runs on a system with a machine id, outside of containers."""
    monkeypatch.setattr("carbon_otel.host.identity.machine", lambda: "this-machine")
    monkeypatch.setattr("carbon_otel.host.identity.pid_namespace", lambda: "4026531836")


@pytest.mark.usefixtures("own_machine")
def test_a_process_of_an_earlier_boot_of_this_machine_has_ended():
    assert is_gone(identity().replace(boot(), "another"))


@pytest.mark.usefixtures("own_machine")
def test_a_process_of_another_machine_with_the_same_name_may_live():
    assert not is_gone(identity().replace(boot(), "another").replace("this-machine", "other-machine"))
    assert not is_gone(identity().replace(boot(), "another").removesuffix("this-machine"))


@pytest.mark.usefixtures("own_machine")
def test_without_the_id_of_the_machine_another_boot_proves_nothing():
    """As identities of version 0.1 were written, and on systems whose boot time moves with the clock."""
    assert not is_gone(identity().replace(boot(), "another").rpartition("/")[0])


@pytest.mark.usefixtures("own_machine")
def test_containers_of_one_image_have_its_machine_id_and_may_live(monkeypatch):
    monkeypatch.setattr("carbon_otel.host.identity.pid_namespace", lambda: "4026532999")
    assert not is_gone(identity().replace(boot(), "another"))


def test_a_living_process_that_proc_hides_has_not_ended(monkeypatch):
    """With hidepid the processes of other users are not in /proc; a signal is refused, though."""
    known = identity()

    def hidden(pid):
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr("carbon_otel.host.identity._began", hidden)
    assert not is_gone(known)

    def refused(pid, number):
        raise PermissionError

    monkeypatch.setattr("os.kill", refused)
    assert not is_gone(known)


@pytest.mark.parametrize("pid", ["", "0", "-1", "1.5", "self", "9" * 5000, "\u0663"])
def test_a_process_id_that_is_none_proves_nothing(pid):
    fields = identity().split("/")
    fields[3] = pid
    assert not is_gone("/".join(fields))


def test_the_end_of_a_process_of_another_container_is_unknown():
    """A container on the host's network has the same host name and boot."""
    host, booted, namespace, _, began, _ = identity().split("/")
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
