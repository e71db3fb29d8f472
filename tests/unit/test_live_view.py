"""The pages of the live view: every width, every figure, and names of any content."""

from __future__ import annotations

import math
import re
import time
from dataclasses import replace

import pytest
from rich.cells import cell_len

from carbon_otel.cli.live import view
from carbon_otel.cli.live.state import DeviceNow, StageNow, State
from carbon_otel.cli.output import lines_of
from carbon_otel.host.identity import ProcessName
from carbon_otel.records import Foresight

FORESIGHT = Foresight(True, (3.0, 4.0, 5.0), 4.0, (0.1, 0.2, 0.3), None, "", done=0.62, left_s=300.0)


def stage(number, parent, kind, name, joules, **changes):
    settings = {"units": {}, "open": True} | changes
    return StageNow(number, parent, kind, name, 72.0, joules, joules / 100, **settings)


STATE = State(
    process=ProcessName(1234, "1", "2"),
    command="python train.py --epochs 3",
    final=False,
    written_s=math.inf,
    duration_s=252.0,
    energy_j=7200.0,
    low_j=7000.0,
    high_j=7400.0,
    emissions_g=72.0,
    low_g=60.0,
    high_g=80.0,
    measured_fraction=1.0,
    method="measured.counter",
    grid="FR, 41.4 g/kWh",
    kinds={"training": 5400.0, "unattributed": 1800.0},
    devices=(DeviceNow("package-0", 40.0, 0.5, 5000.0), DeviceNow("package-1", 10.0, 1.0, 2200.0)),
    stages=(
        stage(1, None, "training", "forest", 5400.0, forecast=FORESIGHT),
        stage(5, 1, "training", "epoch 3", 360.0),
        stage(6, None, "serving", "requests", 36.0),
        stage(2, 1, "training", "epoch", 1800.0, open=False, units={"samples": 1000.0, "batches": 10.0}),
        stage(3, 1, "training", "epoch", 1800.0, open=False, units={"samples": 1000.0, "batches": 10.0}),
        stage(4, 1, "evaluation", "[bold]test", 36.0, open=False, failed=True),
    ),
)


def lines_without_colours(shown, width):
    return [re.sub(r"\x1b\[[\d;]*m", "", line).rstrip() for line in lines_of(shown, width)]


def page(state, width=100):
    return lines_without_colours(view.one(state, width), width)


def test_a_process_with_all_that_is_known_of_it():
    text = "\n".join(page(STATE))
    assert "python train.py --epochs 3 · pid 1234 · 4 min 12 s" in text
    assert "power      30.0 W now" in text, "its shares of the devices"
    assert "energy     2.00 Wh (1.94 to 2.06) · 100% measured (measured.counter)" in text
    assert "emissions  72.0 g (60.0 to 80.0) CO2e · FR, 41.4 g/kWh" in text
    assert "training forest: forecast 4.00 J (3.00 to 5.00), 62% done, 5 min left" in text
    assert "so far: training 75% · unattributed 25%" in text


def test_the_stages_are_a_tree_and_those_that_have_ended_are_counted():
    names = [line.split("  ")[0].strip() for line in page(STATE)]
    begin = names.index("training forest")
    assert names[begin : begin + 3] == ["training forest", "└ training epoch 3", "serving requests"]
    assert "✗ evaluation [bold]test" in names
    ended = next(line for line in page(STATE) if "✓" in line)
    assert "training epoch ×2" in ended and "1.80 J/sample, 180 J/batch" in ended


@pytest.mark.parametrize("width", [20, 30, 46, 60, 80, 200])
@pytest.mark.parametrize("shape", ["one", "several", "brief", "brief of several"])
def test_no_line_is_wider_than_the_terminal(width, shape):
    other = replace(STATE, command="python ünïcode 模型 " + "x" * 300, process=ProcessName(5, "1", "2"))
    shapes = {
        "one": view.one(other, width),
        "several": view.several([STATE, other], width),
        "brief": view.brief([other], 8),
        "brief of several": view.brief([STATE, other], 8),
    }
    lines = lines_without_colours(shapes[shape], width)
    assert all(cell_len(line) <= width for line in lines)
    if shape.startswith("brief"):
        assert len(lines) <= 8
    elif shape == "several" or width >= 46:
        assert any("Wh" in line for line in lines), "the energy is the last figure to go"


def test_several_processes_and_their_sum():
    ended = replace(STATE, process=ProcessName(9, "1", "2"), energy_j=3600.0, emissions_g=36.0, final=True)
    lines = lines_without_colours(view.several([ended, STATE], 120), 120)
    rows = [line.split() for line in lines]
    assert [row[0] for row in rows if row and row[0].isdigit()] == ["1234", "9"], "those that run come first"
    assert any(row[:1] == ["together"] and row[1:3] == ["30.0", "W"] and "3.00" in row for row in rows)


def test_one_line_for_a_log():
    assert view.line([STATE]) == "4 min 12 s, 30.0 W, 2.00 Wh, 72.0 g CO2e, serving requests"
    assert view.line([STATE, STATE]) == "2 processes, 60.0 W, 4.00 Wh, 144 g CO2e"
    assert view.line([replace(STATE, final=True, stages=())]) == "4 min 12 s, ended, 2.00 Wh, 72.0 g CO2e"


def test_a_process_that_does_not_read_its_sensors_says_since_when():
    stopped = replace(STATE, written_s=time.time() - 120)
    assert "read 2 min ago" in " ".join(page(stopped))


def test_a_process_without_figures():
    unknown = dict.fromkeys(("energy_j", "low_j", "high_j", "emissions_g", "low_g", "high_g"), math.nan)
    state = replace(
        STATE, **unknown, devices=(), stages=(stage(1, None, "training", "x", math.nan),), kinds={}
    )
    assert "unknown" in "\n".join(page(state))
    assert view.line([state]).count("unknown") == 2


@pytest.mark.parametrize(
    ("units", "texts"),
    [
        ({"epochs": 2.0, "samples": 4.0}, ["2.00 J/sample", "4.00 J/epoch"]),
        ({"queries": 8.0}, ["1.00 J/query"]),
        ({"classes": 8.0, "pairs": 0.0}, ["1.00 J/class"]),
        ({}, []),
    ],
)
def test_the_energy_of_a_unit(units, texts):
    assert view.rates(8.0, units) == texts
