"""The summary of a measured program, from journals with any content."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from carbon_otel.cli.run_summary import show
from carbon_otel.footprint import NOT_MEASURED, Cost

NOBODY = 2**22 + 1  # above the largest process id of Linux


def journal(folder, name, joules, *, began_s=0.0, status="final", command=None, **changes):
    """The journal of a process with a band of 10 %."""
    footprint = replace(
        NOT_MEASURED,
        energy_j=joules,
        emissions_g=joules / 100,
        low_j=joules * 0.9,
        high_j=joules * 1.1,
        duration_s=5.0,
        measured_fraction=1.0,
        method="measured.counter",
        stages={"training": Cost(joules, joules / 100)},
        flags=(),
        **changes,
    )
    process = {"pid": NOBODY, "command": command or f"python {name}.py", "began_unix_s": began_s}
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"status": status, "process": process, "footprint": footprint.as_dict()}))
    return file


def shown(*journals, width=100):
    console = Console(file=io.StringIO(), width=width)
    show(list(journals), console)
    return console.file.getvalue()


def rows(text):
    """The cells of each row, the heading first."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    return [re.split(r"\s{2,}", line) for line in lines if line]


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "{}", '{"footprint":{}}', '{"process":5}'])
def test_an_unreadable_journal_is_named(tmp_path, content):
    file = tmp_path / "journal.json"
    file.write_text(content)
    assert f"{file} cannot be read" in shown(file).replace("\n", "")


def test_one_process_is_shown_by_its_stages(tmp_path):
    text = shown(journal(tmp_path, "train", 7200.0))
    assert ["training", "2.00", "72.0", "100.0%"] in rows(text) and ["total", "2.00", "72.0"] in rows(text)
    assert "energy, Wh" in text and "2.00 Wh (1.80 to 2.20) in 5.0 s; 100% measured" in text


def test_the_program_comes_first_and_then_its_children_by_their_energy(tmp_path):
    text = shown(
        journal(tmp_path, "small", 10.0, began_s=3),
        journal(tmp_path, "large", 30.0, began_s=2),
        journal(tmp_path, "main", 20.0, began_s=1),
    )
    assert [row[0] for row in rows(text)[1:]] == [
        *("python main.py", "python large.py", "python small.py"),
        "total of 3 processes",
    ]
    assert rows(text)[1] == ["python main.py", "5.0 s", "20.0", "200", "33.3%"]
    assert rows(text)[-1] == ["total of 3 processes", "60.0", "600", "100.0%"]
    assert "60.0 J (54.0 to 66.0) in 7.0 s" in text, "the same sensors measured all: their bands add up"
    assert "stages: training 60.0 J (100.0%)" in text


def test_of_a_hundred_children_ten_have_rows_and_the_others_one(tmp_path):
    text = shown(
        journal(tmp_path, "main", 50.0, began_s=0),
        *(journal(tmp_path, f"child{n}", float(n), began_s=n) for n in range(1, 101)),
    )
    names = [row[0] for row in rows(text)[1:]]
    assert names == [
        "python main.py",
        *(f"python child{n}.py" for n in range(100, 90, -1)),
        "90 others",
        "total of 101 processes",
    ]
    figures = {row[0]: float(row[-3].replace(",", "")) for row in rows(text)[1:]}
    assert figures["90 others"] == pytest.approx(sum(range(1, 91)) / 3600, rel=0.005)
    total = figures.pop("total of 101 processes")
    assert sum(figures.values()) == pytest.approx(total, rel=0.005), "the sum is the sum"


def test_a_killed_child_makes_the_sum_a_lower_bound(tmp_path):
    text = shown(
        journal(tmp_path, "main", 10.0, began_s=0),
        journal(tmp_path, "child", 5.0, began_s=1, status="running"),
    )
    assert "1 of 2 processes: killed or still running" in text and "lower bounds" in text
    assert ["python child.py", "5.0 s", "5.00", "50.0", "33.3%", "killed: at least"] in rows(text)
    assert "15.0 J (at least 13.5)" in text or "15 J (at least 14)" in text


def test_a_process_without_figures_and_an_unreadable_journal_leave_the_others(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    text = shown(
        journal(tmp_path, "main", 10.0),
        journal(tmp_path, "none", float("nan")),
        tmp_path / "bad.json",
    )
    assert "no energy of 1 of 2 processes" in text and "bad.json cannot be read" in text
    assert ["total", "10.0", "100"] in rows(text)


def test_a_long_command_line_is_cut_and_a_figure_never(tmp_path):
    text = shown(
        journal(tmp_path, "main", 10.0, command="python " + "x" * 200),
        journal(tmp_path, "child", 5.0, began_s=1),
        width=60,
    )
    assert all(len(line) <= 60 for line in text.splitlines() if line.startswith("  "))
    assert re.search(r"python x+… +5\.0 s +10\.0 +100 +66\.7%", text)
