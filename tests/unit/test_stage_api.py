"""The public API: ordinary use, and the messages for misuse."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import math
import threading

import pytest

import carbon_otel
from carbon_otel import guard, runtime
from carbon_otel.records import GROUPS
from carbon_otel.sinks import Sink
from carbon_otel.stages import arguments
from carbon_otel.stages.open_stage import current
from tests.fakes.powercap import server


@pytest.fixture
def measured(tmp_path):
    tree = server(tmp_path)
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=30)
    yield tree
    carbon_otel.uninstrument()


def test_a_stage_without_a_session_has_a_footprint_that_was_not_measured():
    with carbon_otel.stage("training") as s:
        pass
    assert s.footprint.method == "missing"
    assert s.footprint.flags == ("not_measured",)
    assert math.isnan(s.footprint.energy_j)
    assert s.footprint.as_dict()["energy_j"] is None
    assert carbon_otel.footprint().method == "missing"
    assert carbon_otel.flush() is True


def test_footprint_of_a_block(measured):
    def draw():  # a counter that stands still for long, as on a busy machine, is not believed
        for zone in (*measured.package, *measured.dram):
            zone.add(1)

    draw()
    with carbon_otel.stage("training", "fit", epochs=3) as s:
        s.units(samples=1000)
        draw()
        assert s.footprint.energy_j >= 0
        draw()
    footprint = s.footprint
    assert footprint.method == "measured.counter"
    assert footprint.measured_fraction == 1.0
    assert set(footprint.devices) == {"intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl:1:0"}
    assert footprint.low_j <= footprint.energy_j <= footprint.high_j
    assert footprint.units == {"samples": 1000.0}
    assert footprint.energy_kwh == footprint.energy_j / 3.6e6
    assert footprint.intensity is not None and footprint.intensity.zone == "FR"
    assert footprint is s.footprint


def test_units_may_be_set_after_the_stage(measured):
    with carbon_otel.stage("inference") as s:
        pass
    s.units(tokens=7)
    assert s.footprint.units == {"tokens": 7.0}


@pytest.mark.parametrize(
    "kind", ["", " training", "a/b", "-x", "run", "unattributed", *GROUPS, "x" * 65, "é", 7, None]
)
def test_wrong_kinds_raise_with_the_remedy(kind):
    with pytest.raises(ValueError, match="write"):
        carbon_otel.stage(kind)


@pytest.mark.parametrize("name", ["", "  ", "x" * 251, 3])
def test_wrong_names_raise_with_the_remedy(name):
    with pytest.raises(ValueError, match="write"):
        carbon_otel.stage("training", name)


@pytest.mark.parametrize("value", [None, object(), {"a": 1}, [1, "a"], b"x"])
def test_wrong_attributes_raise_with_the_remedy(value):
    with pytest.raises(ValueError, match=r"write x=str\("):
        carbon_otel.stage("training", x=value)


@pytest.mark.parametrize("amount", [-1, float("nan"), float("inf"), "many", True, None])
def test_wrong_units_raise_with_the_remedy(amount):
    with pytest.raises(ValueError, match="write a number"):
        carbon_otel.stage("training").units(samples=amount)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ({"zone": "XX"}, "zone='FR'"),
        ({"pue": 0.5}, "from 1.0"),
        ({"interval_s": -1}, "0.01 to 30"),
        ({"interval_s": 60}, "0.01 to 30"),
        ({"attribution": "fair"}, "'reserved'"),
        ({"powercap_root": "/nowhere"}, "intel-rapl"),
        ({"checkpoint_interval_s": 0}, "seconds above 0"),
    ],
)
def test_wrong_settings_raise_at_once(wrong, remedy):
    with pytest.raises(ValueError, match=remedy):
        carbon_otel.instrument(**wrong)
    assert runtime.active() is None


def test_disabled_by_the_environment(monkeypatch):
    monkeypatch.setenv("CARBON_OTEL_DISABLED", "true")
    carbon_otel.instrument(zone="FR")
    assert runtime.active() is None


def test_a_missing_zone_is_warned_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "carbon_otel"):
        carbon_otel.instrument(powercap_root=server(tmp_path).root)
        carbon_otel.instrument(powercap_root=tmp_path / "class" / "powercap")
    carbon_otel.uninstrument()
    assert [r.levelname for r in caplog.records if "world average" in r.getMessage()] == ["WARNING"]


def test_decorated_functions_keep_their_signature_and_their_values(measured):
    @carbon_otel.stage("data_processing")
    def clean(rows: int, *, fast: bool = False) -> int:
        """Clean."""
        return rows + fast

    assert clean(3, fast=True) == 4
    assert clean.__doc__ == "Clean." and clean.__name__ == "clean"
    assert str(inspect.signature(clean)).startswith("(rows: 'int', *, fast: 'bool' = False)")
    assert carbon_otel.footprint().stages.keys() <= {"data_processing", "unattributed"}


def test_exceptions_pass_through_unchanged(measured):
    error = RuntimeError("boom")
    with pytest.raises(RuntimeError) as caught, carbon_otel.stage("training") as s:
        raise error
    assert caught.value is error
    assert s.footprint.method == "measured.counter"


def test_a_stage_ends_though_its_wait_for_the_accelerator_is_interrupted(measured, monkeypatch):
    session = runtime.active()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), carbon_otel.stage("training") as s:
        monkeypatch.setattr(session, "synchronize", interrupt)
    monkeypatch.undo()
    measured.package[0].add(100)
    with carbon_otel.stage("evaluation") as later:
        pass
    assert s.footprint.energy_j == pytest.approx(0, abs=1e-6)
    assert session.engine.parent_of(current.get()) is None
    assert later._last.parent is None


def test_async_stages_nest_by_task(measured):
    parents: dict[str, str | None] = {}

    @carbon_otel.stage("inference")
    async def answer(name: str) -> str:
        from carbon_otel.stages.open_stage import current

        await asyncio.sleep(0)
        inner = current.get()
        assert inner is not None
        parents[name] = inner.info.parent and inner.info.parent.kind
        return name

    async def main() -> None:
        async with carbon_otel.stage("evaluation"):
            await asyncio.gather(answer("a"), answer("b"))

    asyncio.run(main())
    assert parents == {"a": "evaluation", "b": "evaluation"}


def test_a_generator_is_charged_only_while_it_runs(measured):
    books = runtime.active().engine.books

    def payers() -> list[str]:
        return [account.kind for account in books.payers()]

    @carbon_otel.stage("data_processing")
    def batches():
        for i in range(3):
            assert payers() == ["data_processing"]
            yield i

    with carbon_otel.stage("training"):
        for _ in batches():
            assert payers() == ["training"]
    assert payers() == ["unattributed"]


def test_generators_receive_sent_values_and_thrown_exceptions(measured):
    seen: list[object] = []

    @carbon_otel.stage("data_processing")
    def echo():
        with contextlib.suppress(KeyError):
            seen.append((yield 1))
            seen.append((yield 2))
        yield 3
        return "done"

    g = echo()
    assert next(g) == 1
    assert g.send("a") == 2
    assert g.throw(KeyError("k")) == 3
    with pytest.raises(StopIteration) as stop:
        next(g)
    assert stop.value.value == "done"
    assert seen == ["a"]


def test_a_closed_generator_closes_its_stage(measured):
    closed = []

    @carbon_otel.stage("data_processing")
    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    g = endless()
    next(g)
    g.close()
    assert closed == [True]
    assert "data_processing" not in {stage.info.kind for stage in runtime.active().engine._open.values()}


def test_a_generator_that_is_closed_pays_for_it_and_sets_no_context_variable(measured):
    """Before Python 3.12 the interpreter crashes where a collection does so while another one is being set."""
    books = runtime.active().engine.books
    seen = []

    @carbon_otel.stage("data_processing")
    def items():
        try:
            yield 1
        finally:
            seen.append((current.get(), [account.kind for account in books.payers()]))

    with carbon_otel.stage("training") as outer:
        generator = items()
        next(generator)
        generator.close()
    assert seen == [(outer._last, ["data_processing"])]


def test_async_generators(measured):
    @carbon_otel.stage("inference")
    async def tokens():
        for i in range(3):
            await asyncio.sleep(0)
            yield i

    async def main() -> list[int]:
        return [token async for token in tokens()]

    assert asyncio.run(main()) == [0, 1, 2]
    assert not runtime.active().engine._open


def test_a_stage_object_may_be_used_again_even_inside_itself(measured):
    s = carbon_otel.stage("training")
    with s, s:
        pass
    with s:
        pass
    assert not runtime.active().engine._open


def test_threads_and_tasks_that_share_a_stage_object_end_their_own_stages(measured):
    stage = carbon_otel.stage("training")
    ended = []

    async def task(name, begin, end):
        await begin.wait()
        with stage:
            opened = current.get()
            await end.wait()
        ended.append((name, opened.end is not None))

    async def overlap():
        first, second, last = (asyncio.Event() for _ in range(3))
        tasks = [
            asyncio.ensure_future(task("a", first, second)),
            asyncio.ensure_future(task("b", first, last)),
        ]
        for event in (first, second, last):
            event.set()
            for _ in range(3):
                await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(overlap())
    assert ended == [("a", True), ("b", True)]

    entered, left = threading.Event(), threading.Event()

    def enter_later():
        with stage:
            entered.set()
            assert left.wait(60)

    thread = threading.Thread(target=enter_later)
    with stage:
        own = current.get()
        thread.start()
        assert entered.wait(60)
    assert own.end is not None
    left.set()
    thread.join()
    assert not runtime.active().engine._open


def test_a_stage_in_a_thread_is_a_child_of_the_stage_that_started_the_thread(measured):
    from carbon_otel.stages.open_stage import current

    seen = []

    def work() -> None:
        with carbon_otel.stage("inference"):
            seen.append((current.get().parent.info.kind, current.get().info.kind))

    with carbon_otel.stage("training"):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert current.get().info.kind == "training"
    assert seen == [("training", "inference")]


def test_uninstrument_ends_open_stages_and_later_ones_measure_nothing(tmp_path):
    carbon_otel.instrument(zone="FR", powercap_root=server(tmp_path).root)
    with carbon_otel.stage("training") as s:
        carbon_otel.uninstrument()
        assert s.footprint.method == "measured.counter"
    with carbon_otel.stage("training") as later:
        pass
    assert later.footprint.method == "missing"


def test_ten_thousand_short_stages_lose_no_joule(measured):
    class Sums(Sink):
        joules = 0.0

        def energy_attributed(self, stage, joules, grams, embodied_g):
            self.joules += sum(joules)

    sums = Sums()
    runtime.active().add_sink(sums)
    stages = []
    for number in range(10_000):
        with carbon_otel.stage("inference") as s:
            if number % 100 == 0:
                measured.package[0].add(0.05)
        stages.append(s)
    process_before = carbon_otel.footprint()
    carbon_otel.flush()
    process = carbon_otel.footprint()
    assert sum(s.footprint.exclusive_j for s in stages) == pytest.approx(
        process.stages["inference"].energy_j, rel=1e-9
    )
    # The modelled memory draws power between the two figures and the last tick.
    assert process_before.energy_j * (1 - 1e-9) <= sums.joules <= process.energy_j * (1 + 1e-9)


@pytest.mark.parametrize(
    ("kind", "meant"),
    [("train", "training"), ("Fit", "training"), ("fine-tune", "training"), ("TEST", "evaluation")]
    + [("eval", "evaluation"), ("predict", "inference"), ("infer", "inference"), ("Training", "training")]
    + [("preprocess", "data_processing"), ("data-processing", "data_processing")],
)
def test_a_word_for_a_kind_of_the_lifecycle_gets_a_hint_once(kind, meant, caplog):
    guard.forget()
    for _ in range(2):
        assert carbon_otel.stage(kind)._kind == kind
    (hint,) = [record.getMessage() for record in caplog.records]
    assert hint.startswith(f"stage kind {kind!r}: did you mean {meant!r}? Your own kinds are fine")


@pytest.mark.parametrize("kind", [*arguments.LIFECYCLE, "ablation", "trainer", "data_quality"])
def test_other_kinds_get_no_hint(kind, caplog):
    guard.forget()
    carbon_otel.stage(kind)
    assert not caplog.records


def test_a_decorator_without_a_kind_says_what_to_write():
    with pytest.raises(
        ValueError, match=r"carbon_otel.stage needs a kind; write @carbon_otel.stage\('training'\)"
    ):

        @carbon_otel.stage
        def train(): ...


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"zone_": "FR"}, r"instrument\(\) has no argument 'zone_'; did you mean 'zone'\?"),
        ({"country": "FR"}, r"instrument\(\) has no argument 'country'; it has zone, region, pue"),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_nearest_ones(wrong, said):
    with pytest.raises(TypeError, match=said):
        carbon_otel.instrument(**wrong)


def test_a_value_without_its_name_is_answered_with_the_name():
    said = r"^instrument\(\) takes its settings by name, such as instrument\(zone=\.\.\.\)$"
    with pytest.raises(TypeError, match=said):
        carbon_otel.instrument("FR")


def test_a_variable_that_is_nearly_one_of_a_setting_is_said(caplog, monkeypatch):
    for name in (
        "CARBON_OTEL_ZONES",
        "CARBON_OTEL_STATEDIR",
        "CARBON_OTEL_RUN_STAGE",
        "CARBON_OTEL_PARENT_RUN",
    ):
        monkeypatch.setenv(name, "FR")
    monkeypatch.setenv("CARBON_OTEL_CHECKPOINT_INTERVAL", "20")  # a former name
    carbon_otel.instrument()
    carbon_otel.uninstrument()
    said = [record.getMessage() for record in caplog.records if "is no setting" in record.getMessage()]
    assert said == [
        "CARBON_OTEL_ZONES is no setting: did you mean CARBON_OTEL_ZONE?",
        "CARBON_OTEL_STATEDIR is no setting: did you mean CARBON_OTEL_STATE_DIR?",
    ]
