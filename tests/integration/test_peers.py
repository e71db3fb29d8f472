"""Several measured processes of one host: each joule of a device counts once.

`tests/unit/test_shared_use.py` tests the division of a joule on a virtual clock. Here real processes join, tick
and leave at any time, and their energy is compared with the counters.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from carbon_otel.host.membership import Membership

pytestmark = pytest.mark.chaos

# Extrapolation at the edges, and changes between two readings of one tick.
TOLERANCE = 0.04


def total_of(member):
    """A member's joules, and the counters before and after its start and before and after its end."""
    output = json.loads(member.finish())
    return output["energy_j"], output["counters"]


def test_processes_of_a_host_pay_for_making_it_once(host, launch, monkeypatch):
    """Idle or busy: the sum is what the host is worth from the first start to the last end, and no more."""
    g_per_s = 1000.0
    monkeypatch.setenv("CARBON_OTEL_EMBODIED_KG", str(g_per_s * 4 * 365 * 86_400 / 1000))
    began = time.monotonic()
    members = [launch("member.py", str(host.root), kind) for kind in ("idle", "busy", "busy")]
    for member in members:
        member.go()
        assert member.line() == "open"
    all_open = time.monotonic()
    time.sleep(2)
    still_open = time.monotonic()
    for member in members:
        member.say("end")
    paid_g = sum(json.loads(member.finish())["embodied_g"] for member in members)
    ended = time.monotonic()
    assert (still_open - all_open) * g_per_s * (1 - TOLERANCE) < paid_g
    assert paid_g < (ended - began) * g_per_s * (1 + TOLERANCE)


@pytest.mark.parametrize("kinds", [("busy",) * 4, ("idle", "busy"), ("idle", "busy", "children")])
def test_the_books_of_all_processes_add_up_to_the_device(kinds, host, launch):
    members = [launch("member.py", str(host.root), kind) for kind in kinds]
    for member in members:
        member.go()
        assert member.line() == "open"
    stages_j = [[], []]
    for joules in stages_j:
        for member in members:
            member.go()
            joules.append(float(member.line()))
        time.sleep(3)
    # While all stages are open, the busy processes are charged more than the idle one.
    paid = [later - earlier for earlier, later in zip(*stages_j, strict=True)]
    if "idle" in kinds:
        assert min(paid[1:]) > paid[0]
    for member in members:
        member.say("end")
    totals = [total_of(member) for member in members]
    joules = sum(energy_j for energy_j, _ in totals)
    befores, afters = zip(*(counters[:2] for _, counters in totals), strict=True)
    end_befores, end_afters = zip(*(counters[2:] for _, counters in totals), strict=True)
    at_least = max(end_befores) - min(afters)
    at_most = max(end_afters) - min(befores)
    assert at_least * (1 - TOLERANCE) < joules < at_most * (1 + TOLERANCE)


def test_a_killed_process_leaves_no_lock_and_no_hole(host, launch):
    survivor, victim = (launch("member.py", str(host.root), "idle") for _ in range(2))
    for member in (survivor, victim):
        member.go()
        assert member.line() == "open"
    survivor.go()
    survivor.line()
    both_j = host.joules
    time.sleep(1)
    victim.kill()
    alone_j = host.joules
    time.sleep(2)
    survivor.go()
    survivor.line()
    end_j = host.joules
    survivor.say("end")
    energy_j, counters = total_of(survivor)
    # Half of the devices while there are two processes, then all. The survivor also gets the victim's energy that
    # was not booked.
    before_j, after_j = both_j - counters[1], counters[3] - end_j
    assert energy_j > ((alone_j - both_j) / 2 + end_j - alone_j) * (1 - TOLERANCE)
    assert energy_j < (before_j + end_j - both_j + after_j) * (1 + TOLERANCE)


def test_the_device_book_passes_on_and_no_other_user_can_read_it(tmp_path):
    own = Membership("view", tmp_path)
    assert own.holds_device_book()
    program = (
        "import sys, pathlib\nfrom carbon_otel.host.membership import Membership\n"
        "p = Membership(sys.argv[1], pathlib.Path(sys.argv[2]))\n"
        "print(p.holds_device_book(), flush=True)\nsys.stdin.readline()\n"
        "print(p.holds_device_book(), flush=True)\nsys.stdin.readline()"
    )

    def member(view):
        return subprocess.Popen(
            [sys.executable, "-c", program, view, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    stranger, other = member("another view"), member("view")
    assert stranger.stdout.readline() == "True\n"
    assert other.stdout.readline() == "False\n"
    assert len([path for path in own.folder.iterdir() if path.name.startswith(f"{other.pid}.")]) == 1
    assert not list(own.folder.glob(f"{stranger.pid}.*"))
    own.leave()
    other.stdin.write("\n")
    other.stdin.flush()
    assert other.stdout.readline() == "True\n"
    assert all(folder.stat().st_mode & 0o777 == 0o700 for folder in tmp_path.rglob("*") if folder.is_dir())
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))
    for process in (stranger, other):
        process.kill()
        process.communicate()
    again = Membership("view", tmp_path)
    assert again.holds_device_book()
    again.leave()
