"""A measured process shows itself while a viewer asks, and not otherwise."""

from __future__ import annotations

import gc
import os
import sys
import weakref

import pytest

from carbon_otel.background import Worker
from carbon_otel.carbon.grid import EmissionFactor
from carbon_otel.cli.live.state import parsed
from carbon_otel.host.identity import ProcessName
from carbon_otel.host.membership import Membership, measured
from carbon_otel.host.showing import Shown
from carbon_otel.live import Live
from carbon_otel.meter.meter import Meter
from carbon_otel.records import Foresight
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import Clock
from tests.fakes.grid import grid_of
from tests.fakes.sensors import gpu, package

NAME = ProcessName(7, "1", "2")


class Process:
    """A process with a package of 100 W and a GPU, which shows itself in `shown`."""

    def __init__(self, folder) -> None:
        self.clock = Clock()
        self.shown = Shown(folder / "live", str(NAME))
        self.file = folder / "live" / f"{NAME}.json"
        self.asked = folder / "live" / f"{NAME}.asked"
        self.delivery = Worker("test delivery")
        self.live = Live(lambda: self.shown, self.delivery)
        sensors = [package(self.clock), gpu(self.clock)]
        factor = EmissionFactor(grid_of(360.0))
        self.engine = Engine(Meter(sensors, clock_ns=self.clock), factor, [self.live])
        self.engine.is_viewed = self.live.is_asked

    def tick(self) -> None:
        self.clock.advance(1)
        self.engine.tick()
        self.wait()

    def wait(self) -> None:
        assert self.delivery.submit(lambda: None).wait(60)

    def state(self):
        self.wait()
        return parsed(NAME, self.shown.read())


@pytest.fixture
def process(tmp_path):
    process = Process(tmp_path)
    yield process
    process.delivery.close()


def test_without_a_viewer_there_is_no_file(process):
    process.engine.open("training", "forest", {})
    process.tick()
    assert not process.file.parent.exists()


def test_a_viewer_sees_devices_open_stages_and_sums(process):
    process.shown.ask()
    outer = process.engine.open("training", "forest", {})
    process.clock.advance(2)
    ended = process.engine.open("evaluation", "forest", {}, outer)
    process.clock.advance(3)
    ended.units["samples"] = 600.0
    process.engine.close(ended)
    process.engine.open("training", "epoch 2", {}, outer)
    process.tick()
    state = process.state()
    assert not state.final
    opened = {stage.name: stage for stage in state.stages if stage.open}
    assert list(opened) == ["forest", "epoch 2"]
    assert opened["epoch 2"].parent == opened["forest"].id and opened["forest"].parent is None
    closed = [stage for stage in state.stages if not stage.open]
    assert [(stage.kind, stage.units) for stage in closed] == [("evaluation", {"samples": 600.0})]
    assert closed[0].duration_s == 3 and opened["forest"].duration_s == 6
    assert state.energy_j == pytest.approx(sum(device.energy_j for device in state.devices))
    assert state.energy_j == pytest.approx(sum(state.kinds.values()))
    assert state.energy_j == pytest.approx(opened["forest"].energy_j), "it was open all the time"
    assert state.watts == sum(device.watts for device in state.devices) > 0
    assert state.emissions_g == pytest.approx(state.energy_j * 1e-4)


def test_the_command_line_has_no_secret(process, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["/usr/bin/python", "train.py", "--api-key", "abcdefgh"])
    process.shown.ask()
    process.tick()
    assert process.state().command == "python train.py --api-key ***"


def test_the_files_go_when_no_viewer_asks_any_more(process):
    process.shown.ask()
    process.tick()
    assert process.file.exists()
    os.utime(process.asked, (0, 0))  # a viewer that was killed
    process.tick()
    assert not process.file.exists() and not process.asked.exists()
    process.tick()
    assert not process.file.exists()


def test_the_last_state_is_final_even_after_the_process_has_left_the_meeting_place(process):
    process.shown.ask()
    process.tick()
    process.live._shown = lambda: None
    process.engine.close_all()
    assert process.live.close(60)(60)
    assert process.state().final


def test_a_forecast_is_shown_until_its_stage_ends(process):
    process.shown.ask()
    stage = process.engine.open("training", "forest", {})
    foresight = Foresight(True, (1.0, 2.0, 3.0), 2.0, (0.1, 0.2, 0.3), None, "", done=0.5, left_s=4.0)
    process.engine.sinks.foreseen(stage.info, foresight)
    process.tick()
    shown = process.state().stages[0].forecast
    assert list(shown.expected_j) == [1.0, 2.0, 3.0] and (shown.done, shown.left_s) == (0.5, 4.0)
    process.engine.close(stage)
    assert not process.live._foreseen


def test_an_exception_that_ended_a_stage_is_not_kept(process):
    class Large(Exception):
        pass

    error = Large()
    gone = weakref.ref(error)
    process.engine.close(process.engine.open("training", "forest", {}), error)
    del error
    gc.collect()
    assert gone() is None
    process.shown.ask()
    process.tick()
    assert process.state().stages[0].failed


def test_a_view_has_a_bounded_number_of_stages(process):
    process.shown.ask()
    for number in range(300):
        process.engine.open("training", f"{number}", {})
    process.tick()
    assert len(process.state().stages) == 200


@pytest.mark.parametrize("content", ["", "5", "{}", '{"footprint": 5}', '{"status": "running"}'])
def test_what_cannot_be_read_is_no_state(process, content):
    process.shown.ask()
    process.file.write_text(content)
    assert parsed(NAME, process.shown.read() or {}) is None


class TestMeasured:
    def test_those_that_live_are_found_with_what_they_show(self, tmp_path):
        one, other = Membership("host", tmp_path), Membership("another view", tmp_path)
        assert list(measured(tmp_path)) == [one.process]
        assert measured(tmp_path).keys() == {one.process}
        one.shown.ask()
        one.shown.write({"status": "running"})
        assert measured(tmp_path)[one.process].read() == {"status": "running"}
        one.leave()
        other.leave()
        assert measured(tmp_path) == {}

    def test_what_a_dead_process_has_shown_goes_after_a_while(self, tmp_path):
        member = Membership("host", tmp_path)
        folder = member.folder.parent.parent / "live"
        member.shown.ask()
        left = [folder / "1.2.3.json", folder / "1.2.3.asked", folder / ".1.2.3.json.abc"]
        for file in left:
            file.write_text("{}")
        measured(tmp_path)
        assert all(file.exists() for file in left), "a viewer may not have read it yet"
        for file in (*left, folder / f"{member.name}.asked"):
            os.utime(file, (0, 0))
        measured(tmp_path)
        assert [file.name for file in folder.iterdir()] == [f"{member.name}.asked"]
        member.leave()
