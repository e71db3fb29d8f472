"""What the process uses between two moments, over a virtual clock and a device of 100 W."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.carbon.grid import intensity
from carbon_otel.stages.window import Window
from carbon_otel.units import J_PER_KWH
from tests.fakes.powercap import server
from tests.unit.test_changes import spend
from tests.unit.test_engine import Bench


@pytest.fixture
def bench():
    return Bench()


def test_a_window_has_what_all_stages_and_none_of_them_used_meanwhile(bench):
    before, clock = bench.open("evaluation"), bench.clock
    clock.advance(1)
    window = Window(bench.engine)
    clock.advance(2)
    inside = bench.open("training")
    clock.advance(4)
    bench.close(before, inside)
    clock.advance(8)
    assert window.footprint.energy_j == pytest.approx(1400)
    window.close()
    clock.advance(16)
    cost = window.footprint
    assert (cost.energy_j, cost.duration_s) == pytest.approx((1400, 14))
    assert cost.emissions_g == pytest.approx(1400 * 1e-4)
    by_kind = {kind: each.energy_j for kind, each in cost.stages.items()}
    assert by_kind == pytest.approx({"evaluation": 400, "training": 200, "unattributed": 800})
    assert sum(by_kind.values()) == pytest.approx(cost.energy_j)


def test_a_window_changes_nothing_for_stages_and_windows_beside_it(bench):
    stage, clock = bench.open(), bench.clock
    first = Window(bench.engine)
    clock.advance(1)
    second = Window(bench.engine)
    clock.advance(1)
    first.close()
    first.close()
    clock.advance(1)
    second.close()
    bench.close(stage)
    assert [window.footprint.energy_j for window in (first, second)] == pytest.approx([200, 200])
    assert bench.sink.joules(stage) == pytest.approx(300)


def test_a_window_can_be_closed_by_a_signal_handler_in_the_midst_of_a_call(bench, monkeypatch):
    window = Window(bench.engine)
    bench.clock.advance(3)
    opening = bench.engine.books.open

    def interrupted(*arguments: object, **named: object):
        monkeypatch.undo()
        window.close()
        return opening(*arguments, **named)

    monkeypatch.setattr(bench.engine.books, "open", interrupted)
    restored = bench.engine._turns._restore = Mock()
    bench.close(bench.open())
    assert not restored.called, "a call inside of another one would take its changes for broken off"
    assert window.footprint.energy_j <= 300
    assert window.footprint.duration_s == pytest.approx(3)


def test_a_window_has_the_grams_of_a_place_that_is_named_while_it_is_open(tmp_path):
    """What was used before it began would else count with another price at its end: down to negative grams."""
    tree = server(tmp_path)
    carbon_otel.instrument(zone="PL", powercap_root=tree.root, interval_s=30)
    with carbon_otel.stage("training"):
        spend(tree, 40)
    window = Window(runtime.active().engine)
    spend(tree, 4)
    carbon_otel.instrument(zone="FR")
    with carbon_otel.stage("training"):
        spend(tree, 4)
    window.close()
    cost, g_per_j = window.footprint, intensity("FR").g_per_kwh / J_PER_KWH
    assert cost.energy_j > 0
    assert cost.emissions_g == pytest.approx(cost.energy_j * g_per_j)
    for kind in cost.stages.values():
        assert kind.emissions_g == pytest.approx(kind.energy_j * g_per_j)


def test_a_window_has_the_embodied_carbon_of_its_time(tmp_path):
    tree = server(tmp_path)
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30, embodied_kg=1000)
    spend(tree, 4)
    before = carbon_otel.footprint()
    window = Window(runtime.active().engine)
    spend(tree, 4)
    window.close()
    after = carbon_otel.footprint()
    longest_s = after.duration_s - before.duration_s
    assert window.footprint.embodied_g == pytest.approx(
        window.footprint.duration_s / longest_s * (after.embodied_g - before.embodied_g)
    )
    assert window.footprint.embodied_g > 0
