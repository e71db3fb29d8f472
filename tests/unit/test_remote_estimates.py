"""The estimators for calls of remote models, and their table."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from types import ModuleType

import pytest

from carbon_otel import config
from carbon_otel.records import RemoteRequest
from carbon_otel.remote import benchmark, estimator


def figures(model="gpt-4o", read=0, written=100):
    return estimator("benchmark")(RemoteRequest("openai", model, read, written, 1.0))


def test_every_row_of_the_table_has_its_provenance_and_a_band_about_its_value():
    rows = benchmark.table()
    assert [row.size for row in rows] == ["small", "medium", "large", "unknown"]
    for row in rows:
        assert 0 < row.p5_j < row.median_j < row.p95_j
        assert row.rows >= row.models > 1 and row.year >= 2026
        assert "ML.ENERGY" in row.source and "Apache-2.0" in row.licence
    *sized, unknown = rows
    # Sizes follow each other without a gap, and the row without a size has all of their rows.
    assert all(row.above_b == before.up_to_b for before, row in pairwise(sized))
    assert unknown.rows == sum(row.rows for row in sized)
    assert unknown.p95_j < max(row.p95_j for row in sized)


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("llama-3.1-8b-instruct", "small"),
        ("meta-llama/Llama-3.1-70B-Instruct", "medium"),
        ("qwen3-235b-a22b", "large"),
        ("mixtral-8x7b-32768", "medium"),
        ("qwen2.5:0.5b", "small"),
        ("deepseek-r1:671b", "large"),
        ("Llama-4-Scout-17B-16E-Instruct", "unknown"),
        ("gemma-3n-e4b", "unknown"),
        ("gpt-4o-mini-2024-07-18", "unknown"),
        ("claude-sonnet-4-5", "unknown"),
        ("kimi-9000b", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_size_is_read_from_the_name_or_not_known(model, size):
    assert benchmark.size_of(model).size == size


@pytest.mark.parametrize("model", ["llama-8b", "llama-70b", "llama-405b", "gpt-4o"])
def test_a_band_encloses_its_value_and_grows_with_the_tokens(model):
    short, long, prompted = figures(model), figures(model, written=1000), figures(model, read=5000)
    assert 0 < short.low_j < short.energy_j < short.high_j
    assert 0 <= short.low_g < short.emissions_g < short.high_g
    assert long.energy_j == pytest.approx(10 * short.energy_j)
    assert long.high_j == pytest.approx(10 * short.high_j)
    # A prompt is in the upper bound alone.
    assert prompted[:2] == short[:2] and prompted.high_j > short.high_j
    assert "ML.ENERGY" in short.source and math.isfinite(prompted.high_g)


def test_a_figure_by_hand():
    row = benchmark.size_of("llama-3.1-8b")
    one = figures("llama-3.1-8b", read=10, written=2)
    assert one.energy_j == pytest.approx(2 * row.median_j * 93 / 58)
    assert one.low_j == pytest.approx(2 * row.p5_j)
    assert one.high_j == pytest.approx((2 * row.p95_j + 10 * row.median_j) * 93 / 58)
    # 101 / 93 is the overhead of the data centre, and the grid is the average of the world.
    assert one.emissions_g == pytest.approx(one.energy_j / 3.6e6 * 101 / 93 * 458, rel=0.1)


@pytest.mark.apart
class TestEcologits:
    """With the installed package."""

    def test_a_model_that_it_knows(self):
        estimate = estimator("ecologits")
        one = estimate(RemoteRequest("openai", "gpt-4o-mini", 10, 400, 5.0))
        assert 1 < one.low_j <= one.energy_j <= one.high_j < 1e5
        assert 0 < one.low_g <= one.emissions_g <= one.high_g
        assert one.source.startswith("EcoLogits ")
        from ecologits.tracers.utils import llm_impacts

        energy = llm_impacts("openai", "gpt-4o-mini", 400, 5.0).energy.value
        assert (one.low_j, one.high_j) == pytest.approx((energy.min * 3.6e6, energy.max * 3.6e6))

    @pytest.mark.parametrize(("provider", "model"), [("openai", "no-such-model"), ("nobody", "gpt-4o-mini")])
    def test_what_it_does_not_know_has_no_figures(self, provider, model):
        assert estimator("ecologits")(RemoteRequest(provider, model, 10, 400, 5.0)) is None


def test_settings(monkeypatch):
    assert config.resolve({}, {}).remote_estimates is None
    assert config.resolve({}, {"CARBON_OTEL_REMOTE_ESTIMATES": "benchmark"}).remote_estimates == "benchmark"
    with pytest.raises(ValueError, match="write 'benchmark'"):
        config.resolve({"remote_estimates": "guess"}, {})
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install ecologits"):
        config.resolve({"remote_estimates": "ecologits"}, {})


def test_nothing_of_ecologits_is_imported_for_the_benchmark(monkeypatch):
    monkeypatch.setitem(sys.modules, "ecologits", ModuleType("ecologits"))
    assert figures().energy_j > 0
    assert "carbon_otel.remote.ecologits" not in sys.modules or "ecologits.tracers" in sys.modules
