"""Metrics leave before their interval when a stage has ended, as often as an account allows."""

from __future__ import annotations

import pytest

from carbon_otel import clock
from carbon_otel.otel.early_exports import EarlyExports


@pytest.fixture
def now(monkeypatch) -> list[float]:
    """The time, which the test sets."""
    present = [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: present[0])
    return present


class Exporter:
    def __init__(self) -> None:
        self.exports = 0
        self.busy = False

    def __call__(self) -> bool:
        self.exports += not self.busy
        return not self.busy


def test_nothing_is_exported_while_nothing_ends(now):
    export = Exporter()
    early = EarlyExports(export)
    early.send_if_due()
    assert export.exports == 0


def test_a_stage_that_has_ended_is_exported_once(now):
    export = Exporter()
    early = EarlyExports(export)
    early.stage_ended = True
    for _ in range(3):
        early.send_if_due()
    assert export.exports == 1


def test_an_export_that_is_under_way_does_not_contain_it(now):
    export = Exporter()
    early = EarlyExports(export)
    early.stage_ended = export.busy = True
    early.send_if_due()
    export.busy = False
    early.send_if_due()
    assert export.exports == 1


def test_stages_that_end_all_the_time_are_exported_sixty_times_and_then_every_ten_seconds(now):
    export = Exporter()
    early = EarlyExports(export)

    def ends_for(seconds: int) -> int:
        before = export.exports
        for _ in range(seconds):
            now[0] += 1
            early.stage_ended = True
            early.send_if_due()
        return export.exports - before

    assert ends_for(60) == 60
    ends_for(3600)
    assert ends_for(600) == pytest.approx(60, abs=1)
    # Open stages are exported at each checkpoint all the same.
    early.checkpoint = True
    before = export.exports
    early.send_if_due()
    assert export.exports == before + 1
    # A stage that ends after an hour of rest is exported at once.
    now[0] += 3600
    early.stage_ended = False
    early.send_if_due()
    assert ends_for(60) == 60
