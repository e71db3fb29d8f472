"""What the process uses between two moments, over a virtual clock and a device of 100 W."""

from __future__ import annotations

from unittest.mock import Mock

import pytest

from carbon_otel.stages.window import Window
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
