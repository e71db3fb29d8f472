"""The devices whose joules other processes may count too, because they cannot meet this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from carbon_otel.guard import log_once
from carbon_otel.host.cgroup import Reservation
from carbon_otel.host.membership import Membership
from carbon_otel.provenance import is_measured
from carbon_otel.sensors.base import Device

_SETTING = "CARBON_OTEL_RUNTIME_DIR"


def uncoordinated(
    membership: Membership,
    devices: Sequence[Device],
    rule: Literal["reserved", "process"],
    reserved: Reservation,
) -> frozenset[str]:
    """The ids of these devices, with a warning for each reason.

    Shares by CPU time and the reservations of cgroups are apart from each other whether or not their processes
    meet. What other containers do is not visible, so a container is told only if it reads counters of the whole
    host; a model may be that of a virtual machine which the container has for itself.
    """
    if membership.other_groups:
        log_once(
            "this process cannot meet the user's other measured processes on this host (they share no folder that "
            "is safe, writable and has file locks), so the energy that they share may be counted more than once, "
            f"and is flagged 'uncoordinated'; set {_SETTING} to the same folder for all of them",
        )
        return frozenset(device.id for device in devices)
    whole_host = rule == "reserved" and reserved.by == "host"
    found: set[str] = set()
    if membership.other_users:
        found.update(device.id for device in devices if device.type == "gpu" or whole_host)
        if found:
            log_once(
                "processes of another user measure this host too; each user's processes count the whole of it, so "
                "the energy may be counted more than once, and is flagged 'uncoordinated'; "
                "attribution='process' charges each process for its own CPU time",
            )
    if membership.apart and whole_host:
        measured = {device.id for device in devices if device.type != "gpu" and is_measured(device.method)}
        found |= measured
        if measured:
            log_once(
                "this process is in a container, or in a job with private folders, and measures the whole host; "
                "what others measure there may be counted more than once, and is flagged 'uncoordinated'; "
                f"set {_SETTING} to a folder that all of them share, or limit the processors of the container",
            )
    return frozenset(found)
