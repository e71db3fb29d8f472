"""What is proven of a variant, on repeats made by hand."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbon_otel.lifecycle.comparison import RunCost
from carbon_otel.lifecycle.entry import LedgerCost
from carbon_otel.lifecycle.likeness import SAME_UTILISATION
from carbon_otel.lifecycle.proof import proof_of
from carbon_otel.lifecycle.proof_text import text
from carbon_otel.lifecycle.repeat import Repeat, Work
from tests.unit.test_report import entry

SAMPLES = 1000.0
TAGS = {"method": "measured.counter", "attribution": "reserved", "host": "a", "intensity_g_per_kwh": "100"}
PLAIN = (1.0, 1.02, 0.98, 1.01)
CHEAP = tuple(0.5 * wh for wh in PLAIN)
NEAR = tuple(0.999 * wh for wh in PLAIN)


def repeat(name, number, wh, quality=0.9, measured=1.0, start_ms=0, stage="inference", **tags):
    """A run that has used so many watt-hours for 1,000 samples."""
    made = entry(number, wh=wh, grams=wh / 10)
    named = {f"carbon.{tag}": value for tag, value in {**TAGS, **tags}.items()}
    one = replace(
        made,
        name=name,
        stages={stage: LedgerCost(wh, wh / 10)},
        measured_wh=measured * wh,
        units={f"{stage}/samples": SAMPLES},
        start_ms=start_ms,
        tags={**made.tags, **named},
    )
    return Repeat(one, cost_of(one), quality)


def cost_of(one):
    band = (one.low_wh, one.high_wh, one.emissions_g, one.low_g, one.high_g)
    return RunCost(one.run_id, one.name, one.energy_wh, *band, 1.0, 1.0, one.tags)


def group(name, energies, qualities=None, **tags):
    """Repeats that ran in turn with those of the other group."""
    begin = {"base": 0, "variant": 100}[name]
    return [
        repeat(
            name, begin + i, wh, 0.9 if qualities is None else qualities[i], start_ms=200 * i + begin, **tags
        )
        for i, wh in enumerate(energies)
    ]


def proof(base=PLAIN, variant=CHEAP, qualities=None, tolerance=0.01, of_variant=None, **options):
    return proof_of(
        group("base", base),
        group("variant", variant, qualities, **(of_variant or {})),
        options.pop("metric", "accuracy"),
        tolerance,
        **options,
    )


def test_a_saving_at_equal_quality():
    found = proof()
    assert found.verdict == "proven saving" and found.reasons == ()
    assert found.ratio.value == pytest.approx(0.5) and found.ratio.low < 0.5 < found.ratio.high
    assert found.saving.value == pytest.approx(0.5) and found.saving.low == pytest.approx(
        1 - found.ratio.high
    )
    assert found.work == Work("inference", "samples")
    assert found.base.wh_per_unit == pytest.approx(1 / SAMPLES, rel=0.01)
    assert found.repeats_needed == 2 and 0 < found.detectable < 0.1


def test_a_loss_is_as_loud():
    found = proof(CHEAP, PLAIN)
    assert found.verdict == "proven loss" and found.saving.value == pytest.approx(-1)
    assert text(found).startswith(
        "Proven loss: variant uses 100 % more energy per sample of inference than base ("
    )


@given(
    st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.lists(st.floats(0.1, 10), min_size=2, max_size=6)
)
def test_exchanging_the_groups_inverts_the_ratio(base, variant):
    one, two = proof(base, variant), proof(variant, base)
    assert one.ratio.value == pytest.approx(1 / two.ratio.value)
    if two.ratio.low > 1e-200:
        assert one.ratio.high == pytest.approx(1 / two.ratio.low)
    opposite = {"proven saving": "proven loss", "proven loss": "proven saving"}
    assert one.verdict == opposite.get(two.verdict, two.verdict)
    assert one.repeats_needed == two.repeats_needed


@given(st.floats(0.01, 100))
def test_a_common_error_of_the_meter_cancels(factor):
    found = proof([factor * wh for wh in PLAIN], [factor * wh for wh in CHEAP])
    assert found.ratio.value == pytest.approx(proof().ratio.value)
    assert found.ratio.high == pytest.approx(proof().ratio.high)


def test_the_interval_of_the_ratio_has_the_truth():
    """Repeats with a spread of 5 % and 10 %, a true ratio of 0.8, a fixed seed."""
    generator = random.Random(11)
    within = 0
    for _ in range(400):
        base = [math.exp(generator.gauss(0, 0.05)) for _ in range(4)]
        variant = [0.8 * math.exp(generator.gauss(0, 0.1)) for _ in range(4)]
        within += proof(base, variant).ratio.has(0.8)
    assert within >= 0.93 * 400


def test_no_difference_is_not_proven_and_says_what_repeats_would_show():
    found = proof(PLAIN, NEAR)
    assert found.verdict == "cannot be told apart" and found.ratio.has(1)
    assert found.repeats_needed > 100
    assert f"about {found.repeats_needed} of each are needed" in text(found)


@pytest.mark.parametrize(
    ("variant", "gain", "verdict"),
    [
        (CHEAP, -0.01, "proven saving"),  # exactly the tolerance
        (CHEAP, -0.011, "quality not equal"),
        (CHEAP, 0.2, "proven saving"),
        (NEAR, -0.2, "quality not equal"),
        (NEAR, 0.2, "cannot be told apart"),
        ([2 * wh for wh in PLAIN], -0.2, "proven loss"),
        ([2 * wh for wh in PLAIN], 0.01, "proven loss"),
        ([2 * wh for wh in PLAIN], 0.2, "quality not equal"),
    ],
)
def test_quality(variant, gain, verdict):
    found = proof(variant=variant, qualities=[0.9 + gain] * 4)
    assert found.verdict == verdict and found.quality.value == pytest.approx(gain)
    loss = proof_of(
        group("base", PLAIN, [0.9] * 4), group("variant", variant, [0.9 - gain] * 4), "val_loss", 0.01
    )
    assert loss.lower_is_better and loss.verdict == verdict


def test_equal_qualities_have_no_interval():
    """The mean of three times 0.9772 is not exactly 0.9772."""
    found = proof([1.0, 1.1, 1.2], [0.5, 0.6, 0.7], [0.9772] * 3)
    assert "accuracy is 0.0772 better in all repeats" in text(found)


def test_a_quality_that_scatters_is_not_shown_to_be_equal():
    found = proof(qualities=[0.8, 1.0, 0.85, 0.95])
    assert found.verdict == "cannot be told apart"
    assert found.reasons == ("the repeats do not show whether the quality is equal",)


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("accuracy", False),
        ("val_loss", True),
        ("logloss", True),
        ("rmse", True),
        ("test/mae", True),
        ("error_rate", True),
        ("f1", False),
        ("Perplexity", True),
        ("valLoss", True),
        ("validation_0-mlogloss", True),
        ("valid_1's l2", True),
        ("neg_mean_squared_error", False),
        ("val_neg_log_loss", False),
    ],
)
def test_the_direction_by_the_name_of_the_metric(metric, lower):
    assert proof(metric=metric).lower_is_better is lower
    assert proof(metric=metric, lower_is_better=not lower).lower_is_better is not lower


@pytest.mark.parametrize("metric", ["terror", "quality", "mean_score_time", "rank_test_score"])
def test_a_name_that_does_not_say_what_is_better_is_no_proof(metric):
    """A variant of three times the error would be a proven saving."""
    with pytest.raises(ValueError, match="--lower-is-better or --higher-is-better"):
        proof(metric=metric)
    single = proof(PLAIN[:1], CHEAP[:1], metric=metric, lower_is_better=True)
    assert f"--metric {metric} --tolerance 0.01 --lower-is-better" in text(single)


def test_single_runs_prove_nothing_and_say_how_to_go_on():
    found = proof([1.0], [0.1])
    assert (
        found.verdict == "cannot be told apart" and found.repeats_needed is None and found.detectable is None
    )
    shown = text(found)
    assert (
        "by too few runs for an interval" in shown
        and "the spread is unknown with one run of a group" in shown
    )
    assert "carbon-otel prove base variant --metric accuracy --tolerance 0.01" in shown
    assert proof([1.0], [0.1], qualities=[0.5]).verdict == "quality not equal"


@pytest.mark.parametrize("tag", ["method", "attribution", "hardware", "missing"])
def test_runs_that_were_not_measured_alike_are_not_compared(tag):
    found = proof(of_variant={tag: "other"})
    assert found.verdict == "not comparable" and found.ratio is None and found.payback is None
    assert found.reasons[0].startswith(f"{tag} (") and "variant: other" in found.reasons[0]
    assert "were not measured alike" in text(found) and "Repeats" not in text(found)


def test_another_grid_concerns_emissions_only():
    found = proof(of_variant={"intensity_g_per_kwh": "500"}, one_off=[1.0])
    assert found.verdict == "proven saving" and not found.emissions_alike
    assert "emissions" not in text(found) and found.payback.emissions is None
    assert "emissions per sample" in text(proof())


def test_a_model_does_not_see_a_difference_in_power_at_one_utilisation():
    modelled = {"measured": 0.0, "method": "modelled.utilisation"}
    groups = [group("base", PLAIN, **modelled), group("variant", [0.9 * wh for wh in PLAIN], **modelled)]
    found = proof_of(*groups, "accuracy", 0.01)
    assert found.verdict == "cannot be told apart" and found.repeats_needed is None
    assert math.log(found.ratio.high / found.ratio.value) > math.log(SAME_UTILISATION)
    assert "100 % of the energy is modelled" in found.reasons[1]
    assert proof(variant=[0.9 * wh for wh in PLAIN]).verdict == "proven saving", "a counter sees it"
    groups[1] = group("variant", CHEAP, **modelled)
    assert proof_of(*groups, "accuracy", 0.01).verdict == "proven saving"


def test_two_hosts_have_two_meters():
    found = proof(variant=[0.9 * wh for wh in PLAIN], of_variant={"host": "b"})
    assert found.verdict == "cannot be told apart" and "several hosts" in found.reasons[1]


def test_a_busy_neighbour_is_no_saving():
    """Beside it, the base was charged for the whole host: its own CPU time was the same."""
    shares = {"share.reserved": "1"}
    base = group("base", PLAIN, **shares, **{"share.process": "0.3"})
    variant = group("variant", CHEAP, **shares, **{"share.process": "0.6"})
    found = proof_of(base, variant, "accuracy", 0.01)
    assert found.verdict == "cannot be told apart" and "does not bear the difference out" in found.reasons[0]
    quicker = group("variant", CHEAP, **shares, **{"share.process": "0.2"})
    assert proof_of(base, quicker, "accuracy", 0.01).verdict == "proven saving"


def test_groups_that_ran_one_after_the_other_get_a_warning():
    later = [
        replace(each, entry=replace(each.entry, start_ms=10**6 + i))
        for i, each in enumerate(group("variant", CHEAP))
    ]
    found = proof_of(group("base", PLAIN), later, "accuracy", 0.01)
    assert found.verdict == "proven saving" and "run them in turn" in found.reasons[-1]


class TestWork:
    def test_a_training_is_one_unit(self):
        groups = [group(name, wh, stage="training") for name, wh in (("base", PLAIN), ("variant", CHEAP))]
        found = proof_of(*groups, "accuracy", 0.01)
        assert found.work == Work("training", "run") and found.base.wh_per_unit == pytest.approx(1, rel=0.01)
        assert "per run of training" in text(found)
        assert proof_of(*groups, "accuracy", 0.01, unit="samples").work == Work("training", "samples")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"stage": "training"}, "in which all runs have used energy: inference"),
            ({"unit": "tokens"}, "a unit that inference has in all runs: samples, run"),
            ({"tolerance": -1}, "the tolerance is -1"),
            ({"tolerance": math.nan}, "the tolerance is nan"),
        ],
    )
    def test_work_that_the_runs_do_not_have(self, options, message):
        with pytest.raises(ValueError, match=message):
            proof(**options)

    def test_a_run_in_both_groups(self):
        with pytest.raises(ValueError, match="in both groups"):
            proof_of(group("base", PLAIN), group("base", PLAIN), "accuracy", 0.01)

    def test_units_of_one_group_are_not_taken(self):
        variant = [replace(each, entry=replace(each.entry, units={})) for each in group("variant", CHEAP)]
        assert proof_of(group("base", PLAIN), variant, "accuracy", 0.01).work == Work("inference", "run")


def cost(wh, **tags):
    return cost_of(repeat("distillation", 900, wh, **tags).entry)


class TestPayback:
    def test_by_hand(self):
        """50 Wh once, and 0.5 Wh saved for 1,000 samples."""
        found = proof([1.0] * 3, [0.5] * 3, one_off=[50.0]).payback
        assert found.energy.value == pytest.approx(100 * SAMPLES)
        # Watt-hours that were not measured here do not share the meter's error of 10 %.
        assert found.energy.low == pytest.approx(found.energy.value / 1.1)
        assert found.energy.high == pytest.approx(found.energy.value / 0.9)
        assert found.emissions is None

    def test_a_run_that_was_measured_alike_shares_the_error_of_the_meter(self):
        found = proof([1.0] * 3, [0.5] * 3, one_off=[cost(30.0), cost(20.0)]).payback
        assert found.energy.value == pytest.approx(100 * SAMPLES)
        assert (found.energy.low, found.energy.high) == pytest.approx((100 * SAMPLES, 100 * SAMPLES))
        assert found.emissions.value == pytest.approx(100 * SAMPLES)
        assert found.one_off_wh == 50 and found.one_off_g == pytest.approx(5)

    def test_a_run_on_other_hardware_has_its_own_band(self):
        found = proof([1.0] * 3, [0.5] * 3, one_off=[cost(50.0, hardware="gpu")]).payback
        assert found.energy.low == pytest.approx(100 * SAMPLES * 0.9 / 1.1)
        assert found.energy.high == pytest.approx(100 * SAMPLES * 1.1 / 0.9)

    def test_grams_of_another_signal_are_not_compared(self):
        found = proof([1.0] * 3, [0.5] * 3, one_off=[cost(50.0, intensity_signal="marginal")]).payback
        assert found.emissions is None and found.energy.value == pytest.approx(100 * SAMPLES)

    def test_a_killed_one_off_has_no_upper_limit(self):
        found = proof([1.0] * 3, [0.5] * 3, one_off=[cost(50.0, status="running")]).payback
        assert found.energy.low == pytest.approx(100 * SAMPLES) and math.isinf(found.energy.high)

    def test_a_saving_that_may_be_0_is_not_shown_to_pay_back(self):
        found = proof(PLAIN, NEAR, one_off=[1.0])
        assert math.isfinite(found.payback.energy.value) and math.isinf(found.payback.energy.high)
        assert "not shown, since the saving may be 0" in text(found)

    def test_a_loss_never_pays_back(self):
        found = proof(CHEAP, PLAIN, one_off=[1.0])
        assert math.isinf(found.payback.energy.value) and "never, since" in text(found)

    @given(st.floats(1.01, 5), st.floats(0.1, 100))
    def test_more_cost_takes_longer_in_proportion(self, factor, wh):
        one, two = (proof(one_off=[each]).payback.energy for each in (wh, factor * wh))
        assert two.value == pytest.approx(factor * one.value) and two.high == pytest.approx(factor * one.high)

    def test_days(self):
        found = proof([1.0] * 3, [0.5] * 3, one_off=[50.0])
        assert ": after 100,000 samples (90,900 to 111,000), 10.0 days." in text(found, per_day=10_000)


def test_the_text_has_every_figure():
    shown = text(proof(of_variant={}, one_off=[cost(50.0)]))
    for line in (
        "Proven saving: ",
        "accuracy ",
        "energy per sample",
        "spread of the repeats",
        "Quality: ",
        "Payback of distillation (",
    ):
        assert line in shown
    assert "nan" not in shown and "inf" not in shown.replace("inference", "")


def test_the_dictionary_is_ready_for_json():
    found = json.loads(json.dumps(proof(one_off=[1.0]).as_dict()))
    assert found["verdict"] == "proven saving" and found["work"] == {"stage": "inference", "unit": "samples"}
    assert found["saving"]["value"] == pytest.approx(1 - found["ratio"]["value"])
    assert found["base"]["name"] == "base" and len(found["variant"]["run_ids"]) == 4
    assert str(proof()) == text(proof())
