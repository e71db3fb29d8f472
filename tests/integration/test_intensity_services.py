"""The services of carbon intensities in the shapes that they document, and their faults, from real servers."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import multiprocessing
import socket
import threading
import traceback
from datetime import datetime, timedelta, timezone

import pytest

from carbon_otel.carbon.intensity import MixedSignals, Signal
from carbon_otel.intensity.online import Online
from carbon_otel.intensity.pricing import NoFootprint, Use, price
from carbon_otel.intensity.providers.eia import Eia
from carbon_otel.intensity.providers.electricity_maps import ElectricityMaps
from carbon_otel.intensity.providers.energi_data_service import EnergiDataService
from carbon_otel.intensity.providers.energy_charts import EnergyCharts
from carbon_otel.intensity.providers.entsoe import Entsoe
from carbon_otel.intensity.providers.rte import Rte
from carbon_otel.intensity.providers.uk import UnitedKingdom
from carbon_otel.intensity.providers.watttime import WattTime
from carbon_otel.intensity.service import Unavailable, WrongShape
from tests.fakes.intensity import Answer, Asked, serving
from tests.integration.processes import wait_for

UTC = timezone.utc
START = datetime(2026, 3, 29, 0, 0, tzinfo=UTC)  # clocks go forward at 01:00 UTC: a local day of 23 hours
END = START + timedelta(hours=24)
NOW = END + timedelta(minutes=7)
NEEDLE = "needle-7f3a9c51d2e84b06"
KEYS = {
    "ELECTRICITYMAPS_TOKEN": NEEDLE,
    "WATTTIME_USER": "me",
    "WATTTIME_PASSWORD": NEEDLE,
    "ENTSOE_TOKEN": NEEDLE,
    "EIA_API_KEY": NEEDLE,
}


def grams(at):
    """The intensity at a time: 100 g at midnight, 10 g more each hour."""
    return 100 + 10 * (at - START) / timedelta(hours=1)


def times(begin, end, minutes):
    begin = max(begin, START - timedelta(hours=1))
    step = timedelta(minutes=minutes)
    return [begin + number * step for number in range(int((min(end, END) - begin) / step))]


def z(at):
    return f"{at:%Y-%m-%dT%H:%MZ}"


def uk(asked: Asked) -> Answer:
    last = asked.path.rpartition("/")[2]
    forecast = last == "fw48h"
    rows = [
        {
            "from": z(at),
            "to": z(at + timedelta(minutes=30)),
            "intensity": {
                "forecast": grams(at) + 5,
                "actual": None if forecast or at >= END - timedelta(hours=1) else grams(at),
                "index": "low",
            },
        }
        for at in times(START, END, 30)
    ]
    return Answer({"data": [*rows[-1:], *rows, *rows[:1]]})  # both ends are inclusive, and not in order


def energy_charts(asked: Asked) -> Answer:
    assert asked.query["country"] == "de"
    at = times(START, END, 15)
    return Answer(
        {
            "license_info": "CC BY 4.0",
            "unix_seconds": [int(each.timestamp()) for each in at],
            "co2eq": [*map(grams, at[:-8]), *[None] * 8],
            "co2eq_forecast": [*[None] * 8, *map(grams, at[8:])],
            "substitute": False,
            "deprecated": False,
        }
    )


def energi_data_service(asked: Asked) -> Answer:
    dataset = asked.path.rpartition("/")[2]
    assert asked.query["filter"] == '{"PriceArea": ["DK1"]}' and asked.query["sort"] == "Minutes5UTC ASC"
    rows = [
        {"Minutes5UTC": f"{at:%Y-%m-%dT%H:%M:%S}", "PriceArea": "DK1", "CO2Emission": grams(at)}
        for at in times(START, END, 5)
    ]
    return Answer({"total": len(rows), "dataset": dataset, "records": rows[: int(asked.query["limit"])]})


def rte(asked: Asked) -> Answer:
    assert int(asked.query["limit"]) <= 100
    begin = datetime.fromisoformat(asked.query["where"].partition("date_heure >= date'")[2][:25])
    begin = begin.replace(minute=begin.minute // 15 * 15)
    rows = [
        {"date_heure": at.isoformat(), "taux_co2": round(grams(at)) if at.minute % 30 == 0 else None}
        for at in times(begin, begin + timedelta(days=1), 15)
    ]
    return Answer({"total_count": len(rows), "results": rows})


def electricity_maps(asked: Asked) -> Answer:
    assert asked.headers["auth-token"] == NEEDLE and asked.query["disableCallerLookup"] == "true"
    rows = [
        {
            "zone": "DE",
            "carbonIntensity": grams(at),
            "datetime": f"{at:%Y-%m-%dT%H:%M:%S.000Z}",
            "updatedAt": z(END),
            "emissionFactorType": "lifecycle",
            "isEstimated": at.hour == 3,
            "estimationMethod": "TIME_SLICER_AVERAGE",
        }
        for at in times(START, END, 60)
    ]
    name = "forecast" if asked.path.endswith("forecast") else "data"
    return Answer({"zone": "DE", name: rows})


def watttime(asked: Asked) -> Answer:
    if asked.path == "/login":
        assert asked.headers["Authorization"].startswith("Basic ")
        return Answer({"token": f"{NEEDLE}-jwt"})
    assert asked.headers["Authorization"] == f"Bearer {NEEDLE}-jwt"
    rows = [
        {"point_time": at.isoformat(), "value": grams(at) / 0.45359237, "version": "2026"}
        for at in times(START, END, 5)
    ]
    meta = {"region": "CAISO_NORTH", "signal_type": "co2_moer", "units": "lbs_co2_per_mwh"}
    return Answer({"data": rows, "meta": meta})


def entsoe(asked: Asked) -> Answer:
    assert asked.query["securityToken"] == NEEDLE and asked.query["in_Domain"] == "10YFR-RTE------C"
    # Wind of 11 g and gas of 490 g; a position that repeats the one before is left out.
    wind = [(h + 1, 479 - (10 * h + 89)) for h in range(24)]
    gas = [(4 * h + 1, 10 * h + 89) for h in range(24)]
    series = "".join(
        f"<TimeSeries><inBiddingZone_Domain.mRID>10YFR-RTE------C</inBiddingZone_Domain.mRID>"
        f"<MktPSRType><psrType>{code}</psrType></MktPSRType><Period><timeInterval><start>{z(START)}</start>"
        f"<end>{z(END)}</end></timeInterval><resolution>{step}</resolution>"
        + "".join(f"<Point><position>{p}</position><quantity>{q}</quantity></Point>" for p, q in points)
        + "</Period></TimeSeries>"
        for code, step, points in (("B19", "PT60M", wind), ("B04", "PT15M", gas))
    )
    pumping = (
        "<TimeSeries><outBiddingZone_Domain.mRID>10YFR-RTE------C</outBiddingZone_Domain.mRID>"
        "<MktPSRType><psrType>B10</psrType></MktPSRType></TimeSeries>"
    )
    root = 'xmlns="urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0"'
    return Answer(f"<?xml version='1.0'?><GL_MarketDocument {root}>{series}{pumping}</GL_MarketDocument>")


def eia(asked: Asked) -> Answer:
    assert asked.query["api_key"] == NEEDLE and asked.query["facets[respondent][]"] == "CISO"
    rows = [
        {
            "period": f"{at + timedelta(hours=1):%Y-%m-%dT%H}",  # the end of the hour
            "respondent": "CISO",
            "fueltype": fuel,
            "value": str(value),
            "value-units": "megawatthours",
        }
        for at in times(START, END, 60)
        for fuel, value in (
            ("NG", grams(at) - 11),
            ("WND", 479 - (grams(at) - 11)),
            ("BAT", -70),
        )
    ]
    return Answer({"response": {"total": str(len(rows)), "data": rows}, "apiVersion": "2.1"})


DIRECT = Signal(scope="direct", basis="consumption")
SERVICES = {
    "uk": (UnitedKingdom, uk, "GB", DIRECT),
    "energy-charts": (EnergyCharts, energy_charts, "DE", Signal()),
    "energidataservice": (EnergiDataService, energi_data_service, "DK-DK1", DIRECT),
    "rte": (Rte, rte, "FR", Signal(scope="direct")),
    "electricitymaps": (ElectricityMaps, electricity_maps, "DE", Signal(basis="consumption")),
    "watttime": (WattTime, watttime, "CAISO_NORTH", Signal("marginal", scope="direct")),
    "entsoe": (Entsoe, entsoe, "FR", Signal()),
    "eia": (Eia, eia, "US-CAL-CISO", Signal()),
}
services = pytest.mark.parametrize("name", SERVICES)
WITH_KEY = [name for name, (kind, *_) in SERVICES.items() if kind.keys]
keyed = pytest.mark.parametrize("name", WITH_KEY)


class Clock:
    """The present time, which a test sets."""

    def __init__(self, at):
        self.at = at

    def __call__(self):
        return self.at


@pytest.fixture
def started(tmp_path):
    """A provider with a server of its own: `started(name)` gives both."""
    open_servers = []

    def start(name, answer=None, **settings):
        kind, own, *_ = SERVICES[name]
        server = serving(answer or own)
        service = server.__enter__()
        open_servers.append(server)
        settings = {"environ": KEYS, "now": Clock(NOW), "timeout_s": 20.0, **settings}
        return Online(kind(service.url), tmp_path / "cache", **settings), service

    yield start
    for server in open_servers:
        server.__exit__(None, None, None)


@services
def test_the_history_is_a_series_of_the_services_signal_without_overlaps(started, name):
    _, _, zone, signal = SERVICES[name]
    provider, _ = started(name)
    values = provider.history(zone, START, END)
    assert values[0].start <= START and {value.signal for value in values} == {signal}
    assert provider.signal == signal and all(value.retrieved_at == NOW for value in values)
    assert all(one.end <= other.start for one, other in itertools.pairwise(values))
    for value in values:
        at = (
            value.start.replace(minute=0) if name == "entsoe" else value.start
        )  # whose plants change by the hour
        assert value.g_per_kwh == pytest.approx(grams(at), abs=5 if value.quality == "forecast" else 0.6)
    covered = sum((value.end - value.start).total_seconds() for value in values)
    assert covered == pytest.approx(86_400)  # a local day of 23 hours has 24 in UTC


@services
def test_energy_is_priced_by_the_hours_of_the_service(started, name):
    _, _, zone, signal = SERVICES[name]
    provider, _ = started(name)
    values = provider.history(zone, START, END)
    uses = [Use(START, START + timedelta(hours=2), 1000.0), Use(START + timedelta(hours=4), END, 500.0)]
    if signal.kind == "marginal":
        with pytest.raises(NoFootprint, match="marginal"):
            price(uses, values)
        return
    priced = price(uses, values, pue=1.5)
    # Means over 2 h from midnight, and over 20 h from four o'clock, of steps of at most an hour.
    assert (
        priced.emissions_g == pytest.approx(1.5 * (1.0 * 110 + 0.5 * 240), rel=0.05) and priced.share == 1.0
    )
    assert priced.low_g < priced.emissions_g < priced.high_g


@services
def test_a_forecast_is_asked_for_where_there_is_one(started, name):
    _, _, zone, _ = SERVICES[name]
    now = START + timedelta(hours=2, minutes=10)
    provider, _ = started(name, now=Clock(now))
    if name in ("rte", "entsoe", "eia"):
        with pytest.raises(Unavailable, match="no forecast"):
            provider.forecast(zone, timedelta(hours=6))
        return
    values = provider.forecast(zone, timedelta(hours=6))
    assert values[0].start <= now < values[0].end and values[-1].end >= now + timedelta(hours=6)
    assert "forecast" in {value.quality for value in values}


@services
def test_the_check_of_doctor_reads_the_shape(started, name):
    provider, service = started(name)
    provider.check(SERVICES[name][2])
    assert service.asked
    provider.check(SERVICES[name][2])
    assert all(
        note.partition(":")[0] in ("history", "forecast") for note in provider.check(SERVICES[name][2])
    )


@services
def test_a_second_question_is_answered_from_the_disk(started, name):
    _, _, zone, _ = SERVICES[name]
    provider, service = started(name)
    first = provider.history(zone, START, END)
    asked = len(service.asked)
    assert provider.history(zone, START, END) == first and len(service.asked) == asked
    provider._now.at += timedelta(minutes=16)
    provider.history(zone, START, END)
    assert len(service.asked) > asked  # recent values may have been settled
    provider._now.at = END + timedelta(days=9)
    settled = provider.history(zone, START, END)
    asked = len(service.asked)
    provider._now.at += timedelta(days=20)
    assert provider.history(zone, START, END) == settled and len(service.asked) == asked


@keyed
def test_a_service_with_a_key_is_not_asked_without_one(started, name):
    provider, service = started(name, environ={})
    with pytest.raises(Unavailable, match=SERVICES[name][0].keys[-1]):
        provider.history(SERVICES[name][2], START, END)
    assert not service.asked


def html(asked):
    return Answer("<!DOCTYPE html><html>Maintenance</html>", headers={"Content-Type": "text/html"})


FAULTS = {
    "html": (html, "web page"),
    "empty": (lambda asked: Answer(b""), "nothing|not XML"),
    "truncated": (lambda asked: Answer(b'{"data": [{"fr', length=500), "breaks off"),
    "no JSON": (lambda asked: Answer('{"data": [{"fr'), "instead of JSON|not XML"),
    "another object": (lambda asked: Answer({"message": "hello"}), "has no|login|not XML"),
    "a list": (lambda asked: Answer([1, 2]), "not an object|not XML"),
    "a number": (lambda asked: Answer("5"), "not an object|not XML"),
    "null": (lambda asked: Answer("null"), "not an object|not XML"),
    "400": (lambda asked: Answer(status=400), "HTTP 400"),
    "401": (lambda asked: Answer({"error": f"bad token {NEEDLE}"}, 401), "key.*HTTP 401"),
    "403": (lambda asked: Answer(status=403), "key.*HTTP 403"),
    "404": (lambda asked: Answer(status=404), "zone.*HTTP 404"),
    "410": (lambda asked: Answer(status=410), "shut down"),
    "429": (lambda asked: Answer(status=429, headers={"Retry-After": "120"}), "too many.*HTTP 429"),
    "500": (lambda asked: Answer(f"<html>{NEEDLE}</html>", status=500), "HTTP 500"),
    "redirect": (
        lambda asked: Answer(status=302, headers={"Location": f"http://localhost:9/x?k={NEEDLE}"}),
        "another host",
    ),
    "a deep answer": (lambda asked: Answer("[" * 100_000), "instead of JSON|not an object|not XML"),
    "an answer with the key": (lambda asked: Answer({"data": NEEDLE, "zone": NEEDLE, "token": 1}), None),
    "a key in the wrong place": (
        lambda asked: Answer(
            {"token": f"{NEEDLE}-jwt", "zone": NEEDLE, "response": {"data": [{"respondent": NEEDLE}]}}
        ),
        None,
    ),
}


@services
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_a_reason_without_the_key_and_the_next_question_waits(started, caplog, name, fault):
    answer, reason = FAULTS[fault]
    caplog.set_level(logging.DEBUG)
    provider, service = started(name, answer)
    zone = SERVICES[name][2]
    with pytest.raises(Unavailable, match=reason) as caught:
        provider.history(zone, START, END)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    if name in WITH_KEY:
        assert NEEDLE not in told and "securityToken" not in told and "api_key" not in told
    assert caught.value.__cause__ is caught.value.__context__ is None
    asked = len(service.asked)
    with pytest.raises(Unavailable, match="not asked again"):
        provider.history(zone, START, END)
    assert len(service.asked) == asked
    kept = b"".join(file.read_bytes() for file in provider._cache._folder.iterdir())
    assert name not in WITH_KEY or NEEDLE.encode() not in kept


@pytest.mark.parametrize(("status", "requests"), [(500, 2), (503, 2), (429, 1), (403, 1)])
def test_a_fault_of_the_server_is_tried_once_more(started, status, requests):
    provider, service = started("uk", lambda asked: Answer(status=status))
    with pytest.raises(Unavailable):
        provider.history("GB", START, END)
    assert len(service.asked) == requests


def test_a_second_attempt_may_succeed(started):
    provider, service = started(
        "uk", lambda asked: uk(asked) if len(service.asked) > 1 else Answer(status=502)
    )
    assert len(provider.history("GB", START, END)) == 48


def test_the_pauses_grow_and_end_with_a_success(started, monkeypatch):
    clock = [NOW.timestamp()]
    monkeypatch.setattr("carbon_otel.intensity.cache.wall", lambda: clock[0])
    provider, service = started("uk", lambda asked: Answer(status=403))
    pauses = []
    for _ in range(9):
        with pytest.raises(Unavailable):
            provider.history("GB", START, END)
        pauses.append(provider._cache.pause()[0])
        clock[0] += pauses[-1] + 1
    assert pauses == pytest.approx([30, 60, 120, 240, 480, 960, 1920, 3600, 3600])
    service.answer = uk
    assert provider.history("GB", START, END) and provider._cache.pause() == (0.0, "")


def test_the_pause_that_a_service_asks_for_is_kept(started):
    provider, _ = started("uk", lambda asked: Answer(status=429, headers={"Retry-After": "7200"}))
    with pytest.raises(Unavailable):
        provider.history("GB", START, END)
    assert 7000 < provider._cache.pause()[0] <= 7200


def test_a_service_that_hangs_before_or_after_its_headers_is_left(started):
    over = threading.Event()
    provider, service = started("uk", lambda asked: Answer(b"x", wait=over.wait), timeout_s=0.2)
    try:
        with pytest.raises(Unavailable, match=r"does not answer within 0\.2 s"):
            provider.history("GB", START, END)
        wait_for(lambda: len(service.asked) == 2)
    finally:
        over.set()


def test_a_service_that_sends_a_byte_at_a_time_is_left(started):
    def trickle(asked):
        raise AssertionError

    with socket.create_server(("127.0.0.1", 0)) as server:
        over = threading.Event()

        def serve():
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
                    try:
                        while not over.wait(0.02):
                            connection.sendall(b" ")
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        provider, _ = started("uk", trickle, timeout_s=0.3)
        provider.service.base = f"http://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(Unavailable, match="does not answer within"):
            provider.history("GB", START, END)
        over.set()
        thread.join(5)


def test_a_host_without_name_or_without_server_is_a_reason(started):
    provider, _ = started("uk")
    for base in ("http://no-such-host.invalid", "http://127.0.0.1:9"):
        provider.service.base = base
        provider._cache.succeed()
        with pytest.raises(Unavailable, match="cannot be used"):
            provider.history("GB", START, END)


def test_a_compressed_answer_is_read(started):
    def compressed(asked):
        return Answer(gzip.compress(uk(asked).body), headers={"Content-Encoding": "gzip"})

    provider, _ = started("uk", compressed)
    assert len(provider.history("GB", START, END)) == 48


def test_a_redirection_on_the_same_host_is_followed(started):
    def moved(asked):
        if asked.path.startswith("/new"):
            return uk(asked)
        return Answer(status=301, headers={"Location": "/new" + asked.path})

    provider, _ = started("uk", moved)
    assert len(provider.history("GB", START, END)) == 48


def test_nulls_are_gaps_and_no_zeros(started):
    def with_nulls(asked):
        content = json.loads(energy_charts(asked).body)
        content["co2eq"][40:44] = content["co2eq_forecast"][40:44] = [None] * 4
        return Answer(content)

    provider, _ = started("energy-charts", with_nulls)
    values = provider.history("DE", START, END)
    assert len(values) == 92
    priced = price([Use(START, END, 960.0)], values)
    assert priced.share == pytest.approx(92 / 96) and priced.priced_wh == pytest.approx(920)


def test_an_answer_of_nulls_only_is_no_value(started):
    def nulls(asked):
        content = json.loads(energy_charts(asked).body)
        content["co2eq"] = content["co2eq_forecast"] = [None] * 96
        return Answer(content)

    provider, _ = started("energy-charts", nulls)
    assert provider.history("DE", START, END) == ()
    with pytest.raises(Unavailable, match="no value of the last 3 h"):
        provider.latest("DE")
    with pytest.raises(WrongShape, match="no value in 96 points"):
        provider.check("DE")


@pytest.mark.parametrize("value", [0, 2, 1501, -3])
def test_an_implausible_value_is_left_out(started, value):
    def implausible(asked):
        content = json.loads(energy_charts(asked).body)
        content["co2eq"][10] = value
        return Answer(content)

    provider, service = started("energy-charts", implausible)
    assert len(provider.history("DE", START, END)) == 95
    content = json.loads(energy_charts(service.asked[0]).body)
    content["co2eq"] = [value] * 96
    service.answer = lambda asked: Answer(content)
    provider._now.at += timedelta(hours=1)
    with pytest.raises(Unavailable, match="all 96 values"):
        provider.history("DE", START, END)


def test_parallel_lists_of_different_length_are_another_shape(started):
    def short(asked):
        content = json.loads(energy_charts(asked).body)
        return Answer({**content, "co2eq": content["co2eq"][1:]})

    provider, _ = started("energy-charts", short)
    with pytest.raises(WrongShape, match="96 times have 95 values"):
        provider.history("DE", START, END)


def test_a_decimal_comma_is_another_shape(started):
    def comma(asked):
        content = json.loads(uk(asked).body)
        content["data"][0]["intensity"]["actual"] = "302,5"
        return Answer(content)

    provider, _ = started("uk", comma)
    with pytest.raises(WrongShape, match=r"302,5.*not a number"):
        provider.history("GB", START, END)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("electricitymaps", lambda c: {**c, "zone": "US-CAR-DUK"}, "for US-CAR-DUK, not for DE"),
        ("energidataservice", lambda c: {**c, "records": [{"PriceArea": "DK2"}]}, "of DK2, not of DK1"),
        (
            "watttime",
            lambda c: {**c, "meta": {**c["meta"], "region": "PJM"}} if "meta" in c else c,
            "for PJM",
        ),
        (
            "watttime",
            lambda c: {**c, "meta": {**c["meta"], "units": "g"}} if "meta" in c else c,
            "units are g",
        ),
        ("eia", lambda c: {"response": {"data": [{"respondent": "PJM"}]}}, "of PJM, not of CISO"),
    ],
)
def test_an_answer_for_another_zone_or_unit_is_refused(started, name, change, reason):
    _, own, zone, _ = SERVICES[name]
    provider, _ = started(name, lambda asked: Answer(change(json.loads(own(asked).body))))
    with pytest.raises(WrongShape, match=reason):
        provider.history(zone, START, END)


@pytest.mark.parametrize(
    ("name", "zone"),
    [
        ("uk", "FR"),
        ("rte", "DE"),
        ("energidataservice", "DK"),
        ("entsoe", "XX"),
        ("eia", "US"),
        ("watttime", "US"),
    ],
)
def test_a_zone_that_the_service_does_not_have_is_not_asked_for(started, name, zone):
    provider, service = started(name)
    with pytest.raises(ValueError, match=zone):
        provider.history(zone, START, END)
    assert not service.asked


def test_no_data_of_the_platform_is_an_empty_series(started):
    def nothing(asked, code="999"):
        return Answer(
            "<Acknowledgement_MarketDocument xmlns='urn:x'><Reason><code>"
            + code
            + "</code><text>No matching data"
            "</text></Reason></Acknowledgement_MarketDocument>"
        )

    provider, service = started("entsoe", nothing)
    assert provider.history("FR", START, END) == ()
    service.answer = lambda asked: nothing(asked, "998")
    provider._now.at += timedelta(hours=1)
    with pytest.raises(Unavailable, match="reason 998"):
        provider.history("FR", START, END)


def test_the_latest_value_may_be_two_steps_old_and_no_more(started):
    provider, _ = started("rte")
    assert provider.latest("FR").end == END
    provider._now.at = END + timedelta(minutes=70)
    with pytest.raises(Unavailable, match="late"):
        provider.latest("FR")


def test_values_of_two_services_do_not_mix(started):
    one, _ = started("uk")
    other, _ = started("energy-charts")
    values = [*one.history("GB", START, END), *other.history("DE", START, END)]
    with pytest.raises(MixedSignals):
        price([Use(START, END, 1.0)], values)


def _ask(url, folder, results):
    provider = Online(UnitedKingdom(url), folder, now=Clock(NOW), timeout_s=20.0)
    results.put(len(provider.history("GB", START, END)))


def test_the_processes_of_a_host_ask_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with serving(uk) as service:
        processes = [
            context.Process(target=_ask, args=(service.url, tmp_path / "cache", results)) for _ in range(4)
        ]
        for process in processes:
            process.start()
        assert [results.get(timeout=120) for _ in processes] == [48] * 4
        for process in processes:
            process.join(60)
        # The day is in two windows of a week.
        assert len(service.asked) == len({asked.path for asked in service.asked})


def test_a_folder_that_cannot_be_used_costs_nothing_but_the_sharing(started, tmp_path):
    (tmp_path / "cache").write_text("a file")
    provider, service = started("uk")
    assert len(provider.history("GB", START, END)) == 48
    asked = len(service.asked)
    assert len(provider.history("GB", START, END)) == 48 and len(service.asked) == 2 * asked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"asked": "x"}',
        '{"asked": 1e300, "until": 1, "values": []}',
        '{"asked": 1, "values": [5]}',
    ],
)
def test_a_kept_file_that_cannot_be_read_is_asked_for_again(started, text):
    provider, service = started("uk")
    values = provider.history("GB", START, END)
    asked = len(service.asked)
    for file in provider._cache._folder.glob("*history*.json"):
        file.write_text(text)
    assert provider.history("GB", START, END) == values and len(service.asked) == 2 * asked


def test_what_is_kept_is_private(started):
    provider, _ = started("uk")
    provider.history("GB", START, END)
    files = list(provider._cache._folder.iterdir())
    assert files and all(file.stat().st_mode & 0o077 == 0 for file in files)
