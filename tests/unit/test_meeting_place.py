"""All processes of a user agree on one folder, whatever others do in the places where all users write."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel import clock
from carbon_otel.host import identity, meeting_place, membership
from carbon_otel.host.membership import Membership
from carbon_otel.private_files import is_private_folder, names_in, user_id

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs flock and /proc")
as_root = pytest.mark.skipif(
    os.name != "posix" or os.geteuid() != 0, reason="needs root, to own folders as another user"
)
NOBODY = 65534


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Two places instead of those of the host."""
    both = (tmp_path / "shm", tmp_path / "tmp")
    for place in both:
        place.mkdir()
    monkeypatch.setattr(meeting_place, "host_wide", lambda: both)
    return both


@pytest.fixture
def member():
    """Makes members that leave after the test; each has the name of another process."""
    made: list[Membership] = []

    def make(monkeypatch, base=None):
        name = identity.this_process()._replace(pid=100 + len(made))
        monkeypatch.setattr("carbon_otel.host.membership.this_process", lambda: name)
        made.append(Membership("host", base))
        return made[-1]

    yield make
    for one in made:
        one.leave()


def tick(*members: Membership) -> None:
    for one in members:
        one._due_s = 0.0  # as after 30 s
        one.meet()


def meet_in_one(*members: Membership) -> bool:
    return members[0].folder is not None and len({one.folder for one in members}) == 1


def squat_by_mkdir(path: Path) -> None:
    path.mkdir()
    os.chown(path, NOBODY, NOBODY)


def squat_by_mode(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def squat_by_link(path: Path) -> None:
    target = path.parent / f"target of {path.name}"
    target.mkdir(mode=0o700)
    path.symlink_to(target)


def squat_by_dangling_link(path: Path) -> None:
    path.symlink_to("nothing")


def squat_by_file(path: Path) -> None:
    path.write_text("")


@as_root
@pytest.mark.parametrize(
    "squat", [squat_by_mkdir, squat_by_mode, squat_by_link, squat_by_dangling_link, squat_by_file]
)
@pytest.mark.parametrize("names", [1, 2, 10])
def test_a_name_that_another_user_has_taken_keeps_no_processes_apart(
    squat, names, places, member, monkeypatch
):
    for path in list(names_in(places[0], "carbon_otel-host"))[:names]:
        squat(path)
    first, second = member(monkeypatch), member(monkeypatch)
    assert meet_in_one(first, second) and first.alive(second.name)
    assert not first.other_groups and not second.other_groups
    assert first.folder.is_relative_to(places[0] if names < 10 else places[1])


@as_root
def test_processes_meet_again_after_a_squatter_has_left(places, member, monkeypatch):
    name = next(names_in(places[0], "carbon_otel-host"))
    squat_by_mkdir(name)
    before = member(monkeypatch)
    name.rmdir()
    # As if this one had looked before the folder of the other existed.
    monkeypatch.setattr(meeting_place, "existing", lambda places: None)
    after = member(monkeypatch)
    monkeypatch.undo()
    assert not meet_in_one(before, after)
    before.meet(), after.meet()
    assert meet_in_one(before, after) and before.alive(after.name) and after.alive(before.name)
    tick(before, after)
    assert not before.other_groups and not after.other_groups


@given(seed=st.integers(0, 10**6))
def test_processes_agree_after_any_order_of_squatters_and_starts(seed, tmp_path_factory):
    chance = random.Random(seed)
    base = tmp_path_factory.mktemp("places")
    places = (base / "shm", base / "tmp")
    for place in places:
        place.mkdir()
    names = [name for place in places for name in list(names_in(place, "carbon_otel-host"))[:2]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meeting_place, "host_wide", lambda: places)
        members: list[Membership] = []
        for number in range(12):
            name = chance.choice(names)
            if chance.random() < 0.5 and not name.exists():
                squat_by_mode(name)
            elif name.exists() and not is_private_folder(name):
                name.rmdir()
            if chance.random() < 0.5:
                process = identity.this_process()._replace(pid=100 + number)
                patch.setattr("carbon_otel.host.membership.this_process", lambda process=process: process)
                members.append(Membership("host"))
        for one in members:
            one.meet()
        for one in members:
            one.meet()
        assert len({one.folder for one in members}) <= 1
        for one in members:
            one.leave()


def test_a_folder_that_a_cleaner_removes_is_made_again(places, member, monkeypatch):
    first, second = member(monkeypatch), member(monkeypatch)
    assert first.holds_device_book()
    for path in sorted(places[0].rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    first.meet(), second.meet()
    assert meet_in_one(first, second) and first.alive(second.name) and second.alive(first.name)
    assert first.holds_device_book() != second.holds_device_book()


def test_a_place_that_cannot_be_written_is_left_out(places, member, monkeypatch):
    (places[0]).rmdir()
    assert member(monkeypatch).folder.is_relative_to(places[1])


def test_a_full_place_is_left_out_and_makes_no_second_folder(places, member, monkeypatch):
    make = membership.make_folder

    def full(path):
        if path.is_relative_to(places[0]):
            raise OSError(28, "No space left on device")
        make(path)

    monkeypatch.setattr(membership, "make_folder", full)
    first = member(monkeypatch)
    assert first.folder.is_relative_to(places[1]) and len(list(places[0].iterdir())) == 1
    # A process that can use the place is not met, and both say so.
    monkeypatch.setattr(membership, "make_folder", make)
    second = member(monkeypatch)
    assert second.folder.is_relative_to(places[0])
    monkeypatch.setattr(membership, "make_folder", full)
    tick(second)
    assert second.other_groups
    monkeypatch.setattr(membership, "make_folder", make)
    tick(first, second)
    assert meet_in_one(first, second)


@as_root
def test_a_process_that_leaves_does_not_hide_those_that_stay(places, member, monkeypatch):
    first, second = member(monkeypatch), member(monkeypatch)
    root = next(names_in(places[0], "carbon_otel-host"))
    first.leave()
    assert root.stat().st_mtime > 0
    second.leave()
    assert root.stat().st_mtime == 0


def test_a_slow_look_at_the_places_is_taken_less_often(places, member, monkeypatch):
    now_s = [1000.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now_s[0])
    look = meeting_place.other_groups
    for took_s, pause_s in ((0.0, 5), (0.002, 10), (1.0, 30)):

        def slow(*arguments, took_s=took_s):
            now_s[0] += took_s
            return look(*arguments)

        monkeypatch.setattr(meeting_place, "other_groups", slow)
        joined = member(monkeypatch)
        assert joined._due_s - now_s[0] == pytest.approx(pause_s)


def test_without_a_folder_a_process_is_alone_and_says_so(places, member, monkeypatch):
    for place in places:
        place.rmdir()
    alone = member(monkeypatch)
    assert alone.folder is None and alone.other_groups and alone.quiet() and alone.holds_device_book()
    places[1].mkdir()
    alone.meet()
    assert alone.folder is None, "the places are looked at again after 30 s"
    tick(alone)
    assert alone.folder is not None and not alone.other_groups


def test_a_private_place_that_comes_after_the_shared_one_keeps_nothing_apart(places, member, monkeypatch):
    """As under PrivateTmp of systemd, which leaves `/dev/shm` shared."""

    def seen(pid):
        root = "/private" if pid == "self" else "/"
        return _mountinfo({"tmp": f"0:20 {root} {places[1]}", "/": "8:1 / /"})

    monkeypatch.setattr(meeting_place, "_mounts", seen)
    service = member(monkeypatch)
    assert service.folder.is_relative_to(places[0]) and not service.apart


def test_where_the_last_place_goes_the_process_says_so_at_the_next_tick(places, member, monkeypatch):
    alone = member(monkeypatch)
    for place in places:
        shutil.rmtree(place)
    alone.meet()
    assert alone.folder is None
    alone.meet()
    assert alone.other_groups


def test_the_folder_that_the_user_names_is_used_in_the_same_way(places, member, monkeypatch, tmp_path):
    shared = tmp_path / "volume"
    shared.mkdir()
    shared.chmod(0o777)
    squat_by_mode(next(names_in(shared, "carbon_otel-host")))
    first, second = member(monkeypatch, shared), member(monkeypatch, shared)
    assert meet_in_one(first, second) and first.folder.is_relative_to(shared)
    assert not any(list(place.iterdir()) for place in places)


def folder_of(user: int, place: Path, touched_s: float = 0.0) -> Path:
    folder = place / f"carbon_otel-host-{user}"
    folder.mkdir(mode=0o700)
    os.chown(folder, user, user)
    os.utime(folder, 2 * (time.time() - touched_s,))
    return folder


@as_root
def test_processes_of_another_user_are_seen_while_they_live(places, member, monkeypatch):
    own = member(monkeypatch)
    assert not own.other_users
    folder = folder_of(NOBODY, places[0])
    tick(own)
    assert own.other_users and not own.other_groups
    meeting_place.retire(folder)  # as the last one does
    tick(own)
    assert not own.other_users


@as_root
def test_a_killed_process_of_another_user_is_forgotten_after_a_while(places, member, monkeypatch):
    folder_of(NOBODY, places[0], touched_s=85)
    assert member(monkeypatch).other_users
    folder_of(NOBODY - 1, places[1], touched_s=95)
    os.utime(places[0] / f"carbon_otel-host-{NOBODY}", (0, 0))
    assert not member(monkeypatch).other_users


@pytest.mark.parametrize("year", [2012, 2035])
def test_an_application_that_sets_its_clock_hides_and_invents_no_processes(places, member, monkeypatch, year):
    now_s, set_s = time.time(), time.mktime((year, 1, 1, 0, 0, 0, 0, 0, 0))
    monkeypatch.setattr(time, "time", lambda: set_s)
    one = member(monkeypatch)
    left = next(names_in(places[1], "carbon_otel-host"))
    left.mkdir(mode=0o700)
    os.utime(left, (now_s - 120, now_s - 120))  # as a killed process leaves it
    tick(one)
    assert not one.other_groups
    meeting_place.show_alive(left)
    tick(one)
    assert one.other_groups


@as_root
def test_what_only_occupies_a_name_is_no_other_user(places, member, monkeypatch):
    squat_by_mkdir(next(names_in(places[0], "carbon_otel-host")))
    (places[0] / f"carbon_otel-host-{NOBODY}").touch()
    os.chown(places[0] / f"carbon_otel-host-{NOBODY}", NOBODY, NOBODY)
    assert not member(monkeypatch).other_users


SECOND_USER = """
import os, sys
from pathlib import Path
from carbon_otel.host import meeting_place
from carbon_otel.host.membership import Membership
meeting_place.host_wide = lambda: (Path("."),)
os.chdir(sys.argv[1])
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
joined = Membership("host")
print(joined.other_users, joined.folder is not None, flush=True)
sys.stdin.readline()
joined.leave()
"""


@as_root
def test_two_users_see_each_other_and_meet_apart(places, member, monkeypatch, tmp_path):
    places[0].chmod(0o1777)
    own = member(monkeypatch)
    command = [sys.executable, "-c", SECOND_USER, str(places[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True True\n"
        tick(own)
        assert own.other_users and own.holds_device_book()
        other.communicate("\n")
    tick(own)
    assert not own.other_users


def test_a_private_mount_of_the_place_is_known(places, monkeypatch, tmp_path):
    """As of `/tmp` under PrivateTmp of systemd, and of `/dev/shm` in a job of Slurm's job_container."""
    host = {"/": "8:1 / /", "/dev/shm": "0:20 / /dev/shm"}
    assert meeting_place.mount_of(Path("/dev/shm/x"), _mountinfo(host)) == ("0:20", "/", "/dev/shm")
    assert meeting_place.mount_of(Path("/tmp/x"), _mountinfo(host)) == ("8:1", "/", "/")
    private = {**host, "/tmp": "8:1 /tmp/private/tmp /tmp", "/dev/shm": "0:99 / /dev/shm"}
    for place in ("/tmp", "/dev/shm"):
        inside, outside = (meeting_place.mount_of(Path(place), _mountinfo(seen)) for seen in (private, host))
        assert inside != outside
    hidden = _mountinfo({**host, "again": "0:21 / /dev/shm"})
    assert meeting_place.mount_of(Path("/dev/shm/x"), hidden) == ("0:21", "/", "/dev/shm")
    assert meeting_place.mount_of(Path("/dev/shm/x"), "") is None


def test_processes_with_a_private_place_meet_in_one_that_the_host_shares(places, member, monkeypatch):
    def seen(pid):
        root = "/job" if pid == "self" else "/"
        return _mountinfo({"shm": f"0:20 {root} {places[0]}", "/": "8:1 / /"})

    monkeypatch.setattr(meeting_place, "_mounts", seen)
    first, second = member(monkeypatch), member(monkeypatch)
    assert meet_in_one(first, second) and first.folder.is_relative_to(places[1])
    assert first.apart, "processes of the host meet in the other place"
    monkeypatch.setattr(
        meeting_place, "_mounts", lambda pid: seen("self") if pid == "self" else ""
    )  # unreadable
    unknown = member(monkeypatch)
    assert unknown.folder.is_relative_to(places[1]) and not unknown.apart


def _mountinfo(mounts: dict[str, str]) -> str:
    return "".join(f"23 1 {fields} rw - ext4 dev rw\n" for fields in mounts.values())


def test_a_process_of_the_host_is_not_apart_and_one_of_a_container_is(places, member, monkeypatch):
    monkeypatch.setattr(identity, "pid_namespace", lambda: "4026531836")
    assert not member(monkeypatch).apart
    monkeypatch.setattr(identity, "pid_namespace", lambda: "4026532999")
    assert member(monkeypatch).apart
    monkeypatch.setattr(identity, "pid_namespace", lambda: "0")  # unknown
    assert not member(monkeypatch).apart


def test_containers_that_share_a_named_folder_are_not_apart(member, monkeypatch, tmp_path):
    monkeypatch.setattr(identity, "pid_namespace", lambda: "4026532999")
    assert not member(monkeypatch, tmp_path).apart


def test_no_place_depends_on_the_environment(monkeypatch, tmp_path):
    before = meeting_place.host_wide()
    for name in ("XDG_RUNTIME_DIR", "TMPDIR", "TMP", "TEMP", "HOME", "USER", "UID", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    assert meeting_place.host_wide() == before
    assert f"/run/user/{user_id()}" in map(str, before)
