"""The part of a rank in the run of rank 0: what counts for it, and that the books add up whatever happens."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carbon_otel import ranks
from carbon_otel.background import Worker
from carbon_otel.carbon.grid import EmissionFactor, intensity
from carbon_otel.handover import RUN
from carbon_otel.meter.meter import Meter
from carbon_otel.mlflow.runs import rank_parts, rank_runs, recorded_run, recorder
from carbon_otel.mlflow.runs.rank_runs import RankEnds, RankRuns
from carbon_otel.mlflow.runs.rank_word import Word
from carbon_otel.mlflow.runs.recorder import RunRecorder
from carbon_otel.ranks import Group, Rank
from carbon_otel.sinks import Sink
from carbon_otel.stages import preparing
from carbon_otel.stages.engine import Engine
from tests.fakes.clock import NS, Clock
from tests.fakes.sensors import package

WATTS = 100
ADDRESS = "sqlite:///mlflow.db"


class Board:
    """What rank 0 has written."""

    def __init__(self) -> None:
        self.word: str | None = None
        self.fails = False
        self.reads = 0

    def write(self, word: str) -> None:
        self.word = word

    def read(self) -> str | None:
        self.reads += 1
        if self.fails:
            raise ConnectionError("the host of rank 0 is gone")
        return self.word

    def announce(self, run_id: str | None, unix_ns: int | None = None) -> None:
        """Rank 0 has this run since then, or since now."""
        variables = {RUN: f"{run_id} {ADDRESS}"} if run_id else {}
        word = Word.of_text(self.word) if self.word else Word(is_last=False)
        self.word = word.noted(variables, unix_ns or time.time_ns()).text()

    def announce_end(self) -> None:
        """Rank 0 leaves the others."""
        self.word = self.word and Word.of_text(self.word)._replace(is_last=True).text()

    def runs(self) -> list[str]:
        return [since.run for since in Word.of_text(self.word).changes]


class Files:
    """The last state of each contribution that a rank has left on disk."""

    def __init__(self) -> None:
        self.last = {}

    def put(self, address, batch) -> None:
        assert address == ADDRESS
        self.last[batch.contribution_id] = batch

    def joules(self, run_id: str, kind: str | None = None) -> float:
        name = f"carbon/{kind}/energy_wh" if kind else "carbon/energy_wh"
        return 3600 * sum(
            batch.values.get(name, 0.0) for batch in self.last.values() if batch.run_id == run_id
        )


class Process:
    """A rank with an engine on a virtual clock, whose package draws 100 W."""

    def __init__(self, rank: int = 1, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.sensor = package(self.clock, WATTS)
        factor = EmissionFactor(intensity("FR"))
        self.engine = Engine(Meter([self.sensor], clock_ns=self.clock), factor)
        self.files, self.board, self.delivery = Files(), Board(), Worker("test delivery")
        ranks.group.rank, ranks.group.board, ranks.group.works_together = Rank(rank, 2), self.board, True
        self.uploaded = []
        self.recorder = RunRecorder(
            SimpleNamespace(put=lambda batch, store: self.uploaded.append(batch)),
            self.files,
            self.delivery,
            self.engine.devices,
            self.engine.to_footprint,
            lambda footprint, status, trace_id: {},
            lambda stage: None,
            process="p",
            efficiency_metric=None,
        )
        self.adopted = []
        self.variables = {}
        self.rank = RankRuns(
            self.engine, self.recorder, lambda given: given.update(self.variables), self.adopted.append
        )
        for sink in self.recorder, self.rank, RankEnds(self.rank):
            self.engine.sinks.add(sink)
        self.rank.begin()

    def look(self) -> None:
        assert self.rank._worker.submit(self.rank._look).wait(20)

    def open(self, kind: str, inherited=None):
        return self.engine.open(kind, kind, {}, inherited)

    def wait(self) -> Files:
        """Until all that was told is on disk."""
        assert self.delivery.submit(lambda: None).wait(20)
        return self.files

    def end(self) -> Files:
        self.board.announce_end()
        self.rank.end()
        self.engine.close_all()
        return self.wait()

    def stop(self) -> None:
        self.rank.end()
        self.delivery.close()


@pytest.fixture(autouse=True)
def group(monkeypatch):
    fresh = Group()
    for module in ranks, rank_runs, recorded_run, recorder:
        monkeypatch.setattr(module, "group", fresh)
    monkeypatch.setattr(rank_parts, "_OLDEST_S", 0.0)
    monkeypatch.setattr(rank_parts, "_SHORTEST_S", 0.0)


@pytest.fixture
def process():
    made = Process()
    yield made
    made.stop()


def unattributed(process: Process) -> float:
    return process.engine.so_far().footprint.stages["unattributed"].energy_j


def test_what_is_open_when_the_run_is_known_counts_and_what_has_ended_does_not(process):
    before = process.open("data_processing")
    process.clock.advance(5)
    process.engine.close(before)
    process.look()
    training = process.open("training")
    process.clock.advance(10)
    process.board.announce("run")
    process.look()
    process.clock.advance(10)
    process.engine.close(training)
    process.clock.advance(3)  # belongs to the run, in which rank 0 may be at work
    files = process.end()
    assert files.joules("run", "training") == pytest.approx(20 * WATTS)
    assert files.joules("run", "run") == pytest.approx(3 * WATTS)
    assert files.joules("run", "data_processing") == 0
    assert files.joules("run") == pytest.approx(23 * WATTS)
    assert [batch.final for batch in files.last.values()] == [True]
    assert unattributed(process) == pytest.approx(3 * WATTS)
    assert process.adopted[0].variables[RUN] == f"run {ADDRESS}"


def test_a_training_between_two_looks_counts_if_the_run_is_open_at_its_end(process):
    before = process.open("training")
    process.clock.advance(5)
    process.engine.close(before)
    process.look()
    training = process.open("training")
    training.units["samples"] = 5.0
    process.clock.advance(10)
    process.board.announce("run")
    process.engine.close(training)
    process.look()  # after that of the end, for which the training waits no longer than 0.3 s
    process.clock.advance(3)
    files = process.end()
    assert files.joules("run", "training") == pytest.approx(10 * WATTS)
    assert files.joules("run", "run") == pytest.approx(3 * WATTS)
    (batch,) = files.last.values()
    assert batch.values["carbon/units/training/samples"] == 5.0


def test_a_training_that_ends_after_the_run_without_a_look_counts(process):
    """Rank 0 was faster, and has ended its run."""
    training = process.open("training")
    training.units["samples"] = 5.0
    process.clock.advance(10)
    process.board.announce("run")
    process.board.announce(None)
    process.engine.close(training)
    process.look()
    process.clock.advance(3)
    process.look()
    files = process.end()
    assert files.joules("run") == files.joules("run", "training") == pytest.approx(10 * WATTS)
    (batch,) = files.last.values()
    assert batch.final and batch.values["carbon/units/training/samples"] == 5.0
    assert process.adopted[0].variables[RUN] == f"run {ADDRESS}" and process.adopted[-1] is None


def test_a_training_counts_if_rank_0_tells_of_its_run_too_late(process):
    """Also a second training, in the next run, before rank 0 has told of the first one."""
    begun_ns = []
    for seconds, samples in (10, 5.0), (20, 7.0):
        begun_ns.append(time.time_ns())
        training = process.open("training")
        training.units["samples"] = samples
        process.clock.advance(seconds)
        process.engine.close(training)
        process.look()
    process.clock.advance(2)
    process.look()
    for run_id, unix_ns in zip(("first", "second"), begun_ns, strict=True):
        process.board.announce(run_id, unix_ns)
    process.board.announce(None)
    process.look()
    files = process.end()
    assert files.joules("first", "training") == pytest.approx(10 * WATTS)
    assert files.joules("second", "training") == pytest.approx(20 * WATTS)
    assert sorted(
        (each.run_id, each.final, each.values["carbon/units/training/samples"], each.rank["train_s"])
        for each in files.last.values()
        if each.rank["train_s"]
    ) == [("first", True, 5.0, 10.0), ("second", True, 7.0, 20.0)]


def test_a_training_that_begins_before_rank_0_has_ended_the_last_run_is_in_the_next(process):
    """Also what the rank uses between its trainings is in a run; all trainings in a run are one contribution."""
    present = None
    for run_id, before_s, samples in (
        ("first", 3, 5.0),
        ("second", 4, 7.0),
        ("second", 5, 9.0),
        ("third", 6, 11.0),
    ):
        training = process.open("training")
        training.units["samples"] = samples
        process.clock.advance(before_s)
        process.look()
        if run_id != present:
            just_after_ns = training.info.start_unix_ns + 1
            process.board.announce(None, just_after_ns)
            process.look()
            process.board.announce(run_id, just_after_ns)
            present = run_id
        process.clock.advance(10)
        process.engine.close(training)
    files = process.end()
    joules = {run_id: files.joules(run_id, "training") for run_id in ("first", "second", "third")}
    assert joules == pytest.approx({"first": 13 * WATTS, "second": 29 * WATTS, "third": 16 * WATTS})
    assert sum(files.joules(run_id) for run_id in joules) == pytest.approx(process.sensor.spent_j)
    assert sorted(
        (each.run_id, each.final, each.values["carbon/units/training/samples"], each.rank["train_s"])
        for each in files.last.values()
    ) == [("first", True, 5.0, 13.0), ("second", True, 16.0, 29.0), ("third", True, 11.0, 16.0)]


def test_a_contribution_is_final_once_rank_0_has_left_its_run(process):
    def finals() -> dict[str, bool]:
        return {batch.run_id: batch.final for batch in process.wait().last.values()}

    process.board.announce("first")
    for _ in range(2):
        training = process.open("training")
        process.look()
        assert not any(finals().values())
        process.clock.advance(10)
        process.engine.close(training)
        process.look()
        assert finals() == {"first": False}  # rank 0 may go on in it
    training = process.open("training")
    process.board.announce(None)
    process.look()
    process.board.announce("second")
    process.look()
    assert finals() == {"first": True, "second": False}
    process.engine.close(training)
    process.board.announce(None)
    process.look()
    assert finals() == {"first": True, "second": True}


def test_what_waits_for_its_run_is_forgotten_in_the_end(process, monkeypatch):
    training = process.open("training")
    process.clock.advance(10)
    process.engine.close(training)
    process.look()
    assert len(process.recorder._unknown) == 2
    monkeypatch.setattr(rank_parts, "_KNOWN_WITHIN_S", 0.0)
    process.look()
    assert len(process.recorder._unknown) == 1
    process.board.announce("run", training.info.start_unix_ns)
    process.look()
    assert process.end().joules("run", "training") == 0


@pytest.mark.parametrize("told", ["stage_opened", "stage_closed"])
def test_a_part_does_not_end_while_the_sinks_are_told_of_a_stage(process, told):
    """The board is looked at on another thread, in the middle of that."""

    class Looks(Sink):
        closes_first = True

    setattr(Looks, told, lambda self, stage, *_: stage.joined or process.look())
    process.engine.close(process.open("data_processing"))  # a part that has been in use ends at a look
    process.engine.sinks.add(Looks())
    training = process.open("training")
    training.units["samples"] = 5.0
    process.clock.advance(10)
    process.board.announce("run")
    process.look()
    process.board.announce(None)
    process.engine.close(training)
    files = process.end()
    assert files.joules("run", "training") == pytest.approx(10 * WATTS)
    (batch,) = files.last.values()
    assert batch.values["carbon/units/training/samples"] == 5.0


def test_time_without_a_stage_before_the_run_counts_for_nothing(process):
    process.clock.advance(50)
    process.board.announce("run")
    process.look()
    process.clock.advance(2)
    assert process.end().joules("run") == pytest.approx(2 * WATTS)


def test_a_stage_outlives_the_run_of_rank_0(process):
    process.board.announce("run")
    process.look()
    training = process.open("training")
    process.clock.advance(10)
    process.board.announce(None)
    process.look()
    process.clock.advance(1)
    training.units["samples"] = 5.0
    process.engine.close(training)
    process.clock.advance(7)
    process.look()
    files = process.wait()
    assert files.joules("run") == pytest.approx(11 * WATTS)
    (batch,) = files.last.values()
    assert batch.final and batch.values["carbon/units/training/samples"] == 5.0
    assert process.adopted[-1] is None


def test_runs_one_after_the_other_have_their_own_stages(process):
    for run_id, seconds in ("first", 3), ("second", 4):
        process.board.announce(run_id)
        process.look()
        stage = process.open("training")
        process.clock.advance(seconds)
        process.engine.close(stage)
    files = process.end()
    assert [files.joules("first", "training"), files.joules("second", "training")] == pytest.approx(
        [300, 400]
    )


def test_a_run_of_the_rank_itself_pays_all_its_time(process):
    process.look()
    own = process.engine.open_run("own", "own", None)
    process.clock.advance(4)
    process.board.announce("run")
    process.look()
    inner = process.open("training", own)
    process.clock.advance(6)
    process.engine.close(inner)
    process.engine.close(own)
    assert own.end.footprint.energy_j == pytest.approx(10 * WATTS)
    assert process.end().joules("run") == 0


def test_a_part_never_opens_beside_a_stage(process):
    process.engine.close_all()
    outer = process.open("training")
    process.rank._parts._part = None
    process.look()
    process.clock.advance(10)
    process.engine.close(outer)
    assert outer.end.footprint.energy_j == pytest.approx(10 * WATTS)


def test_what_all_ranks_do_together_is_summed_by_rank_0_only(process):
    process.board.announce("run")
    process.look()
    stage = process.open("training")
    stage.units.update(steps=10.0, epochs=2.0, samples=80.0)
    process.clock.advance(1)
    process.engine.close(stage)
    (batch,) = process.end().last.values()
    assert {name: value for name, value in batch.values.items() if "units" in name} == {
        "carbon/units/training/samples": 80.0
    }
    assert {
        "rank": 1,
        "world_size": 2,
        "steps": 10.0,
        "epochs": 2.0,
        "train_s": 1.0,
    }.items() <= batch.rank.items()


@pytest.mark.parametrize(
    ("resumed", "counted"),
    [(False, {"steps": 10.0, "epochs": 2.0, "samples": 80.0}), (True, {"samples": 80.0})],
    ids=["created by this rank", "shared by all ranks"],
)
def test_a_run_that_a_rank_creates_has_what_the_rank_does(process, resumed, counted):
    process.recorder.expect("own", object(), resumed)
    own = process.engine.open_run("own", "own", None)
    stage = process.open("training", own)
    stage.units.update(steps=10.0, epochs=2.0, samples=80.0)
    process.clock.advance(1)
    process.engine.close(stage)
    process.engine.close(own)
    process.wait()
    prefix = "carbon/units/training/"
    values = process.uploaded[-1].values
    assert {
        name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)
    } == counted


def test_a_board_that_fails_is_not_asked_again(process):
    process.board.fails = True
    process.look()
    process.look()
    assert process.board.reads == 1


def test_the_end_waits_for_a_look_that_is_under_way(process, monkeypatch):
    """PyTorch aborts a process whose interpreter ends while a thread is in one of its calls."""
    monkeypatch.setattr(rank_runs, "_LAST_CALL_S", 60.0)
    asked, answer, done = threading.Event(), threading.Event(), []

    def read():
        asked.set()
        assert answer.wait(20)
        done.append(True)

    monkeypatch.setattr(process.board, "read", read)
    process.rank._worker.submit(process.rank._look)
    assert asked.wait(20)
    ranks.group.leave()  # the group is gone, the call is not
    ending = threading.Thread(target=process.rank.end)
    ending.start()
    assert ending.is_alive()
    answer.set()
    ending.join(20)
    assert done == [True] and not ending.is_alive()


def test_rank_0_writes_its_run_and_its_end(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", object())
    process = Process(rank=0)
    process.look()
    assert process.board.runs() == [""]
    process.variables[RUN] = f"run {ADDRESS}"
    process.look()
    now = Word.of_text(process.board.word).now
    assert now.variables == process.variables and now.unix_ns <= time.time_ns()
    former, ranks.group.board = process.board, Board()  # the process group is made again
    process.look()
    assert ranks.group.board.word == former.word
    ranks.group.board = process.board
    process.variables.clear()
    process.look()
    assert process.board.runs() == ["", now.run, ""] and not Word.of_text(process.board.word).is_last
    process.stop()
    assert Word.of_text(process.board.word).is_last


def test_without_mlflow_nobody_waits_for_a_run_of_rank_0(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlflow", raising=False)
    process = Process(rank=0)
    process.look()
    assert Word.of_text(process.board.word).is_last
    process.stop()


def test_rank_0_writes_a_run_that_is_over_before_it_looks():
    process = Process(rank=0)
    busy, go_on = threading.Event(), threading.Event()
    process.rank._worker.submit(lambda: (busy.set(), go_on.wait(20)))
    assert busy.wait(20)
    run = process.engine.open_run("run", "run", None)
    process.variables[RUN] = f"run {ADDRESS}"
    process.engine.close(process.open("training", run))
    process.engine.close(run)
    process.variables.clear()
    go_on.set()
    process.look()
    assert process.board.runs() == ["", f"run {ADDRESS}", ""]
    process.stop()


def test_a_stage_that_opens_while_its_part_is_about_to_end_keeps_it(process, monkeypatch):
    """The sensors are read in between, which takes time."""
    opened = []

    def read_for_edge(now_ns: int):
        if not opened:
            opened.append(None)
            thread = threading.Thread(target=lambda: opened.append(process.open("training")))
            thread.start()
            thread.join(20)
        return read(now_ns)

    read = process.engine.meter.read_for_edge
    process.engine.close(process.open("data_processing"))
    monkeypatch.setattr(process.engine.meter, "read_for_edge", read_for_edge)
    process.look()
    training = opened[1]
    training.units["samples"] = 5.0
    process.board.announce("run")
    process.clock.advance(10)
    process.look()
    process.engine.close(training)
    files = process.end()
    assert files.joules("run", "training") == pytest.approx(10 * WATTS)
    (batch,) = files.last.values()
    assert batch.values["carbon/units/training/samples"] == 5.0


def test_a_part_ends_with_its_stage_also_if_other_threads_tick_meanwhile(process):
    class Ticks(Sink):
        def stage_closed(self, stage, end):
            thread = threading.Thread(target=process.engine.tick)
            thread.start()
            thread.join(20)

    process.engine.sinks.add(Ticks())
    process.board.announce("first")
    process.look()
    for run_id, seconds in ("first", 10), ("second", 100):
        training = process.open("training")
        process.clock.advance(seconds)
        process.look()
        if run_id == "second":
            process.board.announce("second", training.info.start_unix_ns + 1)
        process.engine.close(training)
    files = process.end()
    assert files.joules("first", "training") == pytest.approx(10 * WATTS)
    assert files.joules("second", "training") == pytest.approx(100 * WATTS)


def test_a_board_that_hangs_is_waited_for_once(process, monkeypatch):
    waits = []
    submit = process.rank._worker.submit

    class Waited(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return super().wait(0.01)

    def submitted(call):
        done, made = Waited(), submit(call)
        threading.Thread(target=lambda: (made.wait(20), done.set())).start()
        return done

    answer = threading.Event()
    monkeypatch.setattr(process.rank._worker, "submit", submitted)
    monkeypatch.setattr(process.board, "read", lambda: answer.wait(20) and None)
    for _ in range(3):
        process.engine.close(process.open("training"))
    assert waits == [rank_runs._LOOK_S]
    answer.set()
    monkeypatch.undo()


class Fold(NamedTuple):
    """A training. Rank 0 comes to it `ahead_s` later than this rank, and leaves its run `behind_s` earlier.

    If rank 0 does not, this rank evaluates after the training.
    """

    goes_on: bool
    evaluates_s: float
    ahead_s: float
    trains_s: float
    behind_s: float
    rests_s: float


FOLDS = st.lists(
    st.builds(
        Fold,
        goes_on=st.booleans(),
        evaluates_s=st.floats(1, 50),
        ahead_s=st.floats(0, 20),
        trains_s=st.floats(41, 300),
        behind_s=st.one_of(st.just(0.0), st.floats(0.1, 20)),
        rests_s=st.floats(0, 30),
    ),
    min_size=1,
    max_size=6,
)


@given(folds=FOLDS, every_s=st.sampled_from([0.5, 1.0, 7.0]))
@settings(max_examples=60)
def test_each_training_is_in_the_run_that_rank_0_has_for_it(folds, every_s):
    """Whether the rank is ahead of rank 0 or behind, and whenever it looks; so is each evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_parts, "_OLDEST_S", 5.0)
        ranks.group.__init__()
        clock = Clock()
        for module in rank_parts, preparing:
            patch.setattr(module, "time", SimpleNamespace(time_ns=clock))
        patch.setattr(rank_parts, "clock", SimpleNamespace(monotonic=lambda: clock() / NS))
        process = Process(clock=clock)

        def pass_time(seconds: float) -> None:
            while seconds > 0:
                clock.advance(min(every_s, seconds))
                process.look()
                seconds -= every_s

        expected, present = {}, None
        for number, fold in enumerate(folds):
            training, began_ns = process.open("training"), clock()
            pass_time(fold.ahead_s)
            if present is None or not fold.goes_on:
                process.board.announce(None, clock())
                present = f"run-{number}"
                process.board.announce(present, clock())
            pass_time(fold.trains_s)
            run_id = present
            if fold.behind_s:
                process.board.announce(None, clock())
                present = None
                pass_time(fold.behind_s)
            process.engine.close(training)
            trained = run_id, "training"
            expected[trained] = expected.get(trained, 0.0) + (clock() - began_ns) / NS * WATTS
            if not fold.behind_s:
                evaluation, began_ns = process.open("evaluation"), clock()
                pass_time(fold.evaluates_s)
                process.engine.close(evaluation)
                evaluated = run_id, "evaluation"
                expected[evaluated] = expected.get(evaluated, 0.0) + (clock() - began_ns) / NS * WATTS
            pass_time(fold.rests_s)
        files = process.end()
        process.stop()
    assert {each: files.joules(*each) for each in expected} == pytest.approx(expected)
    runs = {run_id for run_id, _ in expected}
    assert sum(files.joules(run_id) for run_id in runs) <= process.sensor.spent_j * (1 + 1e-9)
    assert all(batch.final for batch in files.last.values())


class AnyOrder(RuleBasedStateMachine):
    """Stages, runs of this rank, and runs of rank 0 begin and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        ranks.group.__init__()
        self.process = Process()
        self.stages = []
        self.closed = []
        self.own = None
        self.number = 0

    @rule(seconds=st.integers(1, 20))
    def time_passes(self, seconds: int) -> None:
        self.process.clock.advance(seconds)

    @rule(nested=st.booleans())
    def a_stage_opens(self, nested: bool) -> None:
        self.stages.append(self.process.open("training", self.stages[-1] if nested and self.stages else None))

    @rule(last=st.booleans())
    def a_stage_ends(self, last: bool) -> None:
        if self.stages:
            stage = self.stages.pop(-1 if last else 0)
            self.process.engine.close(stage)
            self.closed.append(stage)

    @rule(begins=st.booleans())
    def rank_0_has_a_run(self, begins: bool) -> None:
        self.number += begins
        self.process.board.announce(f"run {self.number}".replace(" ", "-") if begins else None)

    @rule()
    def the_rank_looks(self) -> None:
        self.process.look()

    @rule()
    def a_run_of_its_own(self) -> None:
        if self.own is None:
            self.number += 1
            self.own = self.process.engine.open_run(f"own-{self.number}", "own", None)
        else:
            self.process.engine.close(self.own)
            self.closed.append(self.own)
            self.own = None

    @invariant()
    def each_joule_is_in_one_place(self) -> None:
        process = self.process
        books = process.engine.so_far().footprint
        drawn_j = process.sensor.spent_j
        assert books.energy_j == pytest.approx(drawn_j, abs=1e-6)
        assert sum(cost.energy_j for cost in books.stages.values()) == pytest.approx(drawn_j, abs=1e-6)
        alone = [*self.closed, *self.stages, *([self.own] if self.own else [])]
        own_j = sum(process.engine.so_far(stage).footprint.exclusive_j for stage in alone)
        nobody_j = books.stages["unattributed"].energy_j
        assert own_j + nobody_j == pytest.approx(drawn_j, abs=1e-6)

    def teardown(self) -> None:
        files = self.process.end()
        parts_j = 3600 * sum(batch.values.get("carbon/energy_wh", 0.0) for batch in files.last.values())
        assert parts_j <= self.process.sensor.spent_j + 1e-6
        assert all(batch.final for batch in files.last.values())
        self.process.stop()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=20, stateful_step_count=20)
