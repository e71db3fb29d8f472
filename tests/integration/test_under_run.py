"""Programs under `carbon-otel run` that name their zone, end without an exit, or compute in spawned workers."""

from __future__ import annotations

import re
import sys

import pytest

from tests.integration.test_lines import STAGE, User

CLI = (sys.executable, "-m", "carbon_otel.cli", "run")


@pytest.fixture
def user(tmp_path, drawing):
    return User(tmp_path, drawing)


def test_a_program_that_names_its_zone_is_not_told_that_there_is_none(user):
    named = "import carbon_otel\ncarbon_otel.instrument(zone='FR')\n"
    assert not [line for line in user.run(named + STAGE, *CLI, "--", sys.executable) if "no zone set" in line]
    without = user.run("import carbon_otel\n" + STAGE, *CLI, "--", sys.executable)
    assert [line for line in without if "no zone set" in line] == without[:1]


@pytest.mark.parametrize(
    ("option", "argument", "said"),
    [
        (("--zone", "SE"), "zone='FR'", "zone='FR' of the program's instrument() counts, and not 'SE' of"),
        (("--pue", "1.2"), "pue=1.5", "pue=1.5 of the program's instrument() counts, and not 1.2 of"),
        (("--zone", "FR"), "zone='FR'", None),
        ((), "zone='FR'", None),
    ],
)
def test_what_counts_of_the_command_and_the_program_is_said(option, argument, said, user):
    program = f"import carbon_otel\ncarbon_otel.instrument({argument})\n" + STAGE
    lines = user.run(program, *CLI, *option, "--", sys.executable)
    found = [line for line in lines if "of the program's instrument() counts" in line]
    assert found == [] if said is None else len(found) == 1 and found[0].startswith(said)


def test_a_program_that_ends_without_an_exit_has_a_lower_bound(user):
    """Not the usual interval of 15 s: half of the time at most is lost."""
    program = "import carbon_otel\n" + STAGE.replace("work()", "work(100)") + "os._exit(3)\n"
    lines = user.run(program, *CLI, "--zone", "FR", "--", sys.executable, code=3)
    assert any("the figures up to its last checkpoint are lower bounds" in line for line in lines)
    (total,) = (line for line in lines if line.split()[:1] == ["total"])
    (duration,) = (float(found[1]) for line in lines if (found := re.search(r"in ([\d.]+) s;", line)))
    assert duration >= 2 and float(total.split()[1]) > 0


def test_spawned_workers_under_run_with_children_are_processes_of_their_own(user):
    program = """
import carbon_otel, multiprocessing
def begin(barrier):
    global both
    both = barrier
def in_worker(_):
    with carbon_otel.stage("evaluation"):
        work()
    both.wait()  # so that each worker has a task
if __name__ == "__main__":
    with carbon_otel.stage("training"):
        work()
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(2, begin, (spawn.Barrier(2),)) as pool:
        pool.map(in_worker, range(2), chunksize=1)
        pool.close()
        pool.join()
"""
    lines = user.run(program, *CLI, "--children", "--zone", "FR", "--", sys.executable)
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines if line.rstrip().endswith("%")]
    (main, *workers), (total, *_) = rows[:-1], rows[-1]
    assert total == "total of 3 processes" and len(workers) == 2
    assert "program.py" in main[0] and all("program.py" not in name for name, *_ in workers)
    assert all(float(joules) > 0 for _, _, joules, _, _ in (main, *workers))
    (stages,) = (line for line in lines if line.startswith("stages: "))
    assert "training" in stages and "evaluation" in stages
