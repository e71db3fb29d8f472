"""`carbon_otel.forecast(...)`: what it accepts and refuses, and what widens the forecast of an estimator."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

import carbon_otel
from carbon_otel.footprint import NOT_MEASURED
from carbon_otel.forecast.records import Forecast, Interval
from carbon_otel.foresight import other_work
from carbon_otel.foresight.ask import _power


@pytest.mark.parametrize(
    ("arguments", "settings", "remedy"),
    [
        (("30B",), {"tokens": "1T"}, "hardware='H100'"),
        (("30B",), {"tokens": "1T", "hardware": "H100", "chips": 8}, "gpus"),
        ((None,), {"inference": True, "hardware": "H100"}, "inference=True"),
    ],
)
def test_wrong_arguments_of_the_function(arguments, settings, remedy):
    with pytest.raises(ValueError, match=re.escape(remedy)):
        carbon_otel.forecast(*arguments, **settings)


def test_a_measurement_without_a_gpu_is_not_asked_for_again(monkeypatch):
    monkeypatch.setattr("carbon_otel.foresight.ask.measuring", lambda: SimpleNamespace(gpus=()))
    with pytest.raises(ValueError, match=r"no GPU is measured here; .*hardware='H100'") as error:
        carbon_otel.forecast("30B", tokens="1T")
    assert "instrument()" not in str(error.value)


def test_an_estimator_without_its_data_is_refused():
    from sklearn.linear_model import Ridge

    with pytest.raises(ValueError, match=r"forecast\(estimator, X, y\)"):
        carbon_otel.forecast(Ridge())
    with pytest.raises(ValueError, match="leave these out"):
        carbon_otel.forecast(Ridge(), [[1.0], [2.0]], [1.0, 2.0], tokens=5)


def test_a_busy_machine_makes_the_interval_wider(monkeypatch):
    from sklearn.linear_model import Ridge

    widths = {}
    for load in (0.5, 1.0, 4.0, 9.0, 1000.0):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load * (os.cpu_count() or 1), 0, 0))
        monkeypatch.setattr("carbon_otel.foresight.other_work._others_s", lambda: 0.0)
        monkeypatch.setattr("carbon_otel.foresight.ask._timed", lambda call: (call(), 0.1)[1])
        forecast = carbon_otel.forecast(
            Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False
        )
        widths[load] = forecast.days.width
        assert any(each.name == "other work on this machine" for each in forecast.assumptions) == (load > 1)
    assert widths[0.5] == widths[1.0] < widths[4.0] < widths[9.0] == widths[1000.0]
    assert widths[4.0] > 1.5 * widths[1.0]


def test_what_others_take_in_the_small_fits_makes_the_interval_wider(monkeypatch):
    """The load average lags behind by a minute."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    one = Interval.exact(1.0)
    made = Forecast("estimator", "a forest", "node", one, one, one, (), days=one)
    processors, widths = os.cpu_count() or 1, []
    for share in (0.0, 0.25, 0.5, 1.0, None):
        readings = iter([0.0, 10.0 * share * processors] if share is not None else [None, None])
        times = iter([100.0, 110.0])
        monkeypatch.setattr(other_work, "_others_s", readings.__next__)
        monkeypatch.setattr(other_work.clock, "monotonic", times.__next__)
        with other_work.OtherWork() as others:
            pass
        widths.append(others.widened(made).it_energy_kwh.width)
    alone = made.it_energy_kwh.width
    assert widths[0] == widths[4] == alone < widths[1] < widths[2] < widths[3]
    assert widths[3] < 4 * alone


def test_the_power_of_short_fits_has_a_wide_interval():
    def width(seconds):
        figures = replace(
            NOT_MEASURED,
            energy_j=50 * seconds,
            duration_s=seconds,
            method="measured.counter",
            measured_fraction=1.0,
        )
        power = _power(figures)
        assert power.watts.p50 == pytest.approx(50)
        return power.watts.width

    assert 1.1 < width(100) < width(2) < width(1) < 1.5 < width(0.1)


def test_the_place_of_an_estimator():
    from sklearn.linear_model import Ridge

    def grid(**place):
        found = carbon_otel.forecast(
            Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False, **place
        )
        return next(each for each in found.assumptions if each.name == "carbon intensity")

    assert grid(intensity=100).value == 100
    assert grid(zone="FR").value < grid(zone="PL").value
    assert "countries" in grid().source
    assert grid(region="gcp:europe-north1").source != grid().source
    carbon_otel.instrument(zone="FR")
    assert grid().value == grid(zone="FR").value
    with pytest.raises(ValueError, match="Atlantis"):
        grid(zone="Atlantis")


def test_an_estimator_without_a_measurement_has_an_assumed_power():
    from sklearn.linear_model import Ridge

    forecast = carbon_otel.forecast(Ridge(), [[float(i)] for i in range(50)], list(range(50)), remember=False)
    power = next(each for each in forecast.assumptions if each.name == "power")
    assert not power.verified and "instrument()" in power.source and power.low < power.value < power.high


def test_numbers_may_be_written_as_people_write_them():
    settings = {"tokens": "600B", "hardware": "A100", "intensity": 350, "remember": False}
    written = carbon_otel.forecast("30B", gpus="256", rl_tokens="1B", **settings)
    assert written == carbon_otel.forecast("30B", gpus=256.0, rl_tokens=1e9, **settings)
    numpy = pytest.importorskip("numpy")
    assert carbon_otel.forecast(numpy.int64(30_000_000_000), gpus=256, rl_tokens=1e9, **settings) == written


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"gpus": "many"}, ValueError, "gpus is 'many'"),
        ({"hardware": None}, ValueError, "hardware is None; write its name, such as 'H100', or 'auto'"),
        ({"tokens": [1e9]}, ValueError, "tokens is"),
        ({"tuning": "qlora"}, ValueError, "unknown tuning 'qlora'; write full or lora"),
        ({"source": "none/config.json"}, OSError, "none/config.json"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings, error, message):
    settings = {"source": "30B", "hardware": "A100", "remember": False, **settings}
    with pytest.raises(error, match=re.escape(message)):
        carbon_otel.forecast(**settings)


@pytest.mark.parametrize("value", [-1, "", "x", float("nan"), [], {}, object(), True, None])
def test_no_setting_of_another_type_gets_further_than_a_message(value):
    """What makes sense is taken; everything else is a ValueError, in training and in inference."""
    settings = {
        False: "hardware epochs gpus days precision seq_len tuning mfu watts idle past rl_tokens lifetime_years",
        True: "hardware gpus concurrency precision input_tokens requests_per_month scope training",
    }
    for inference, names in settings.items():
        for name in (*names.split(), "zone", "region", "intensity", "pue", "active", "chips"):
            wanted = {"hardware": "H100", "inference": inference, "remember": False, name: value}
            with contextlib.suppress(ValueError):
                assert carbon_otel.forecast("7B", **wanted).energy_kwh.p50 > 0, name


def test_an_estimator_refuses_what_it_would_ignore():
    from sklearn.linear_model import Ridge

    rows = [[float(i)] for i in range(10)]
    for settings, message in (({"hardware": "H100"}, "hardware"), ({"budget_s": -1}, "budget_s is -1")):
        with pytest.raises(ValueError, match=message):
            carbon_otel.forecast(Ridge(), rows, rows, **settings)
    with pytest.raises(ValueError, match="X has 10 rows, y has 9"):
        carbon_otel.forecast(Ridge(), rows, rows[:9])


def test_an_estimator_says_what_its_uncertainty_comes_from():
    from sklearn.linear_model import Ridge

    rows = [[float(i)] for i in range(100)]
    found = carbon_otel.forecast(Ridge(), rows, rows, remember=False)
    assert sum(each.share for each in found.influences) == pytest.approx(1)
    assert "carbon intensity" in {each.name for each in found.influences}
