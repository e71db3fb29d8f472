"""The share of time that the hypervisor stole, from /proc/stat."""

from __future__ import annotations

import pytest

from carbon_otel.otel.cpu_steal import Steal


def test_steal_is_a_share_of_all_time_and_none_without_steal(tmp_path):
    stat = tmp_path / "stat"

    def ticks(user, idle, stolen):
        stat.write_text(f"cpu  {user} 0 0 {idle} 0 0 0 {stolen} 7 0\n")

    ticks(1000, 9000, 0)
    steal = Steal(stat)
    ticks(2000, 10000, 0)
    assert steal.share() is None
    ticks(2000 + 300, 10000 + 500, 200)
    assert steal.share() == pytest.approx(200 / 3000)
    assert steal.share() == pytest.approx(200 / 3000)  # called again at once
    ticks(2300 + 750, 10500, 200 + 250)
    assert steal.share() == pytest.approx(0.25)
    for content in ("", "cpu 1 2 3\n", "cpu a b\n"):
        stat.write_text(content)
        assert steal.share() is None
