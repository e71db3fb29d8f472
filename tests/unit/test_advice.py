"""The parts of advice that need no store: the table of the literature, parts of energy, the choice of a metric."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.advice import uneven_ranks
from carbon_otel.advice.advisor import KINDS, Advised
from carbon_otel.advice.amounts import NONE, part, total, whole
from carbon_otel.advice.attempts import Attempt
from carbon_otel.advice.histories import Curve, Histories, Point
from carbon_otel.advice.literature import CHECKED, GPU, TOKENS, applicable, factors
from carbon_otel.advice.quality import Metric, choose
from carbon_otel.advice.subject import Subject
from carbon_otel.advice.words import LEVERS, NothingFound
from carbon_otel.cli.advise_view import show
from carbon_otel.cli.output import Screen
from carbon_otel.lifecycle.better import direction
from carbon_otel.lifecycle.comparison import energy_unlike
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.ledger import Ledger
from carbon_otel.lifecycle.report import report_of
from carbon_otel.mlflow.schema.rank_figures import RankFigures
from tests.unit.test_report import entry

ROWS = list(factors())


def report(*entries):
    return report_of(Ledger("churn", entries))


class TestTable:
    def test_every_row_is_whole(self):
        assert len(ROWS) == 62
        for row in ROWS:
            assert row.lever in (*LEVERS, "all") and row.phase in ("training", "inference", "both"), row
            assert row.metric in ("energy", "co2", "time") and row.checked in CHECKED, row
            assert set(row.needs) <= {GPU, TOKENS}, row
            assert row.title and row.condition and row.source and row.licence and row.verify, row
            assert 2015 <= row.year <= 2026, row
            known = [each for each in (row.low, row.typical, row.high) if each is not None]
            assert known == sorted(known) and all(each < 1 for each in known), row

    @pytest.mark.parametrize(
        ("technique", "change"),
        [
            ("better_model", "80 to 90 % less energy"),
            ("hyperparameters", "up to 80 % less energy"),
            ("quantize_nf4_small_model", "11.7 to 29.4 % more energy, typically 20 % more"),
            ("fp8_best_configuration", "from 108 % more to 82 % less energy, typically 36 % less"),
            ("gradient_checkpointing", "about 33 % more time"),
            ("parameter_sharing", "up to 120 % more energy"),
            ("quantize_code_model", "energy: no single figure"),
        ],
    )
    def test_ranges_in_words(self, technique, change):
        assert next(row for row in ROWS if row.technique == technique).change == change

    def test_what_costs_more(self):
        costly = {row.technique for row in ROWS if row.costs_more}
        assert {"quantize_nf4_small_model", "quantize_llm_int8_default", "parameter_sharing"} <= costly
        assert not costly & {"fp8_best_configuration", "newer_gpu", "quantize_code_model", "pruning"}

    def test_rows_from_memory_say_so(self):
        assert sum(row.checked == "recall" for row in ROWS) == 11
        assert CHECKED["recall"] == "from memory, not verified"


class TestApplicable:
    def techniques(self, *entries):
        return {row.technique for row in applicable(report(*entries))}

    def test_training_on_a_processor(self):
        found = self.techniques(entry())
        assert {"better_model", "less_data", "cleaner_region", "four_ms_combined"} <= found
        assert not found & {"power_cap", "compile_training", "distillation", "quantize_nf4_large_model"}

    def test_a_gpu_brings_its_rows(self):
        assert "power_cap" in self.techniques(replace(entry(), components={"cpu": 5.0, "gpu": 5.0}))

    def test_language_models_are_known_by_their_tokens(self):
        serving = replace(
            entry(), stages={"inference": LedgerCost(10.0, 5.0)}, units={"inference/output_tokens": 9.0}
        )
        assert "arrival_shaping" in self.techniques(serving)
        assert "quantize_nf4_small_model" not in self.techniques(serving), "without a GPU"
        assert "quantize_nf4_small_model" in self.techniques(replace(serving, components={"gpu": 10.0}))
        assert "compile_training" not in self.techniques(replace(serving, components={"gpu": 10.0}))

    def test_what_runs_without_stages_did_is_unknown(self):
        found = self.techniques(replace(entry(), stages={"run": LedgerCost(10.0, 5.0)}))
        assert {"better_model", "distillation"} <= found


class TestAmounts:
    @given(st.floats(0, 20), st.floats(0, 20), st.floats(0, 20))
    def test_a_part_is_never_more_than_the_whole(self, wh, low, high):
        some, all_of_it = part(entry(wh=10.0), wh, low, high), whole(entry(wh=10.0))
        assert 0 <= some.low_wh <= some.energy_wh <= some.high_wh <= all_of_it.high_wh * (1 + 1e-12)
        assert some.energy_wh <= all_of_it.energy_wh and some.emissions_g <= all_of_it.emissions_g * (
            1 + 1e-12
        )

    def test_sums_add_the_bands_in_full(self):
        both = total(whole(entry(number)) for number in range(2))
        assert (both.energy_wh, both.low_wh, both.high_wh) == pytest.approx((20.0, 18.0, 22.0))
        assert total([]) == NONE

    def test_a_run_that_has_not_ended_has_no_upper_end(self):
        running = replace(entry(), tags={**entry().tags, "carbon.status": "running"})
        assert math.isinf(whole(running).high_wh) and whole(running).low_wh == pytest.approx(9.0)


class TestCurve:
    def test_between_two_points_the_energy_lies_between_theirs(self):
        curve = Curve([(0, 0.0), (100, 10.0), (200, 10.0), (200, 12.0)])
        assert curve.at(-5) == (0, 0, 0) and curve.at(100) == (10, 10, 10)
        assert curve.at(50) == (5, 0, 10) and curve.at(200) == (12, 12, 12) == curve.at(999)

    @given(
        st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 10)), min_size=1, max_size=10),
        st.integers(-10, 1100),
        st.integers(-10, 1100),
    )
    def test_what_was_used_between_two_times(self, steps, one, other):
        points, wh = [(0, 0.0)], 0.0
        for ms, more in sorted(steps):
            wh += more
            points.append((ms, wh))
        curve = Curve(points)
        spent = curve.at(min(one, other)).until(curve.at(max(one, other)))
        assert 0 <= spent.low_wh <= spent.wh * (1 + 1e-9) + 1e-9
        assert spent.wh <= spent.high_wh * (1 + 1e-9) + 1e-9 and spent.high_wh <= curve.total_wh


class TestMetric:
    @pytest.mark.parametrize(
        ("name", "lower"),
        [
            ("val_loss", True),
            ("validation_0-rmse", True),
            ("evalLoss", True),
            ("test/accuracy", False),
            ("roc_auc", False),
            ("epoch", None),
            ("glossary", None),
            ("neg_mean_squared_error", False),
            ("mean_score_time", None),
        ],
    )
    def test_the_name_says_what_is_better(self, name, lower):
        assert direction(name) is lower

    def chosen(self, **lengths):
        """Of a run that has histories of these lengths."""
        attempt = SimpleNamespace(run_id="r", metrics=dict.fromkeys(lengths, 1.0))
        found = choose([attempt], lambda run_id, name: [Point(i, i, 1.0) for i in range(lengths[name])])
        return found and found.name

    def test_held_out_data_goes_first_and_a_training_loss_last(self):
        assert self.chosen(loss=9, accuracy=9, val_loss=9, val_accuracy=9) == "val_loss"
        assert self.chosen(loss=9, accuracy=9, val_loss=1) == "accuracy"
        assert self.chosen(loss=9, epoch=9) == "loss"
        assert self.chosen(val_loss=2, epoch=9) is None

    def test_of_equal_values_the_first_is_the_best(self):
        points = [Point(step, step, value) for step, value in enumerate((2, 1, 1))]
        assert Metric("val_loss", True).best(points).step == 1


class TestUnevenRanks:
    def look(self, *waits_ms):
        """Of ranks of 10 Wh that train for 100 s in 1,000 steps."""
        ranks = tuple(
            RankFigures(rank, len(waits_ms), 10.0, 5.0, 0.0, 1000.0, 1.0, 100.0, ms / 1000, True)
            for rank, ms in enumerate(waits_ms)
        )
        cost = replace(entry(wh=10.0 * max(1, len(waits_ms))), ranks=ranks)
        attempt = Attempt(cost, {}, None, frozenset(), (), {"accuracy": 0.9}, 0, None)
        return uneven_ranks.look(subject(attempt))

    def test_by_hand(self):
        """Two ranks wait 20 ms in each step beyond the slowest: 20 of 100 s, 2 Wh each."""
        advice = self.look(1.0, 21.0, 21.0)
        assert advice.saved.energy_wh == pytest.approx(4.0) and advice.verdict == "saves at most"
        assert "rank 0 is the slowest" in advice.finding[0]
        assert advice.command == f"carbon-otel prove {0:032x} VARIANT --metric accuracy --tolerance 0.01"

    def test_even_ranks_and_no_ranks(self):
        assert isinstance(self.look(5.0, 5.0), NothingFound)
        assert "no run is a distributed training" in self.look().reason


def subject(*attempts):
    found = report(*(each.entry for each in attempts))
    now = datetime(2026, 11, 26, tzinfo=timezone.utc)
    ledger = Ledger("churn", found.entries)
    return Subject("churn", ledger, found, attempts, Histories(None), None, None, "", now, None)


def test_why_energies_are_not_comparable():
    tags = entry().tags
    assert energy_unlike(tags, {**tags, "carbon.zone": "PL"}) == [], "the grid is not in the energy"
    assert "different hardware" in energy_unlike(tags, {**tags, "carbon.hardware": "b"})[0]
    shared = {**tags, "carbon.share.reserved": "0.5"}
    assert "otherwise in use" in energy_unlike(shared, {**tags, "carbon.share.reserved": "1"})[0]
    assert energy_unlike(shared, {**tags, "carbon.share.reserved": "0.51"}) == []


def test_the_total_of_a_lower_bound_has_no_upper_end():
    made = entry()
    found = report(replace(made, tags={**made.tags, "carbon.status": "running"}))
    assert found.lower_bounds
    advised = Advised("churn", found.total, found.by_stage, (), (), (), (), found.lower_bounds, 0)
    console = Screen(file=io.StringIO(), width=80)
    show(advised, console)
    first = console.file.getvalue().splitlines()[0]
    assert first.count("(at least ") == 2 and " to " not in first


def test_a_ledger_without_advice_says_what_was_looked_at():
    found = report(entry())
    silent = tuple(NothingFound(f"kind {number}", "looked at") for number in range(len(KINDS)))
    advised = Advised("churn", found.total, found.by_stage, (), silent, (), (), (), 0)
    console = Screen(file=io.StringIO(), width=80)
    show(advised, console)
    text = console.file.getvalue()
    assert "nothing found" in text and "kind 9: looked at" in text
