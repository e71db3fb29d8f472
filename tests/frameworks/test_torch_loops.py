"""PyTorch loops that people write themselves: each pass over a DataLoader is a stage, and its kind shows in it."""

from __future__ import annotations

import collections
import gc
import itertools
import multiprocessing
import sys
import threading
import time

import pytest

import carbon_otel
from carbon_otel import runtime
from carbon_otel.otel.sink import OtelSink
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.frameworks import books

torch = pytest.importorskip("torch")
data = pytest.importorskip("torch.utils.data")

SAMPLES, BATCH = 48, 8
BATCHES = SAMPLES // BATCH
PASS = {"batches": BATCHES, "samples": SAMPLES}
EPOCH = {**PASS, "steps": BATCHES, "epochs": 1}


class Slow(data.TensorDataset):
    """Loading a batch takes 20 ms."""

    def __getitem__(self, index):
        time.sleep(0.02 / BATCH)
        return super().__getitem__(index)


def loader(kind=data.TensorDataset, **options):
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(SAMPLES, 4, generator=generator), torch.randn(SAMPLES, 1, generator=generator)
    return data.DataLoader(kind(*tensors), batch_size=BATCH, **options)


class Job:
    """A model, and what a loop does with a batch, for about 5 ms."""

    def __init__(self) -> None:
        self.model = torch.nn.Linear(4, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)

    def step(self, batch) -> None:
        x, y = batch
        self.optimizer.zero_grad()
        ((self.model(x) - y) ** 2).mean().backward()
        self.optimizer.step()
        time.sleep(0.005)

    def look(self, batch) -> None:
        with torch.no_grad():
            self.model(batch[0])
        time.sleep(0.005)


@pytest.fixture
def job():
    return Job()


def passes(stages):
    """The stages that have ended, without those of waiting for data, which a busy machine may make long."""
    return [each for each in stages() if each[1] != "DataLoader"]


def draw(stages, watts):
    """Let the device draw this from now on, and give the joules so far."""
    stages.drawing.watts = watts
    for _ in range(2):  # the first change may be of the time before
        joules = books.written_after(stages.drawing)
    return joules


def test_a_loop_has_the_power_of_its_own_time(stages, job):
    # The stage around the loops is known from now on.
    for batch in loader():
        job.look(batch)
    stages()
    draw(stages, watts=1)
    time.sleep(0.5)
    begun_j = draw(stages, watts=200)
    for at, batch in enumerate(loader(Slow)):
        if at == 0:
            first_j = stages.drawing.joules
        job.step(batch)
        last_j = stages.drawing.joules
        time.sleep(0.005)  # a counter that has just been read is not read again
    ended_j = books.written_after(stages.drawing)
    [epoch] = [each for each in stages.ended() if each.kind == "training"]
    assert 0.99 * (last_j - first_j) <= epoch.joules <= 1.01 * (ended_j - begun_j)


def test_steps_without_a_loader_have_the_power_of_their_own_time(stages, job):
    for batch in loader():
        job.look(batch)
    stages()
    draw(stages, watts=200)
    time.sleep(0.5)
    begun_j = draw(stages, watts=1)
    for _ in range(20):
        job.step([torch.randn(BATCH, 4), torch.randn(BATCH, 1)])
    carbon_otel.uninstrument()
    ended_j = books.written_after(stages.drawing)
    [training] = [each for each in stages.ended() if each.kind == "training"]
    assert 0 < training.joules <= 1.01 * (ended_j - begun_j)


def test_epochs_and_evaluations_follow_each_other(stages, job):
    batches, held_out = loader(), loader()
    for _ in range(2):
        for batch in batches:
            job.step(batch)
        for batch in held_out:
            job.look(batch)
    assert passes(stages) == [
        ("training", "epoch 1", EPOCH),
        ("evaluation", "evaluation", PASS),
        ("training", "epoch 2", EPOCH),
        ("evaluation", "evaluation", PASS),
    ]


def test_a_process_that_does_not_train_infers(stages, job):
    for batch in loader():
        job.look(batch)
    assert passes(stages) == [("inference", "inference", PASS)]


def test_waiting_for_data_is_a_child(stages, job):
    for batch in loader(Slow):
        job.step(batch)
    waiting, epoch = stages.ended()
    assert (waiting.kind, waiting.name, waiting.parent) == ("data_processing", "DataLoader", "epoch 1")
    assert epoch.units == EPOCH
    assert 0 < waiting.joules < epoch.joules
    own = epoch.span.attributes["carbon_otel.energy.exclusive_j"]
    assert own + waiting.joules == pytest.approx(epoch.joules, rel=1e-6)


def test_every_joule_is_in_one_place(stages, job):
    for _ in range(2):
        for batch in loader(Slow):
            job.step(batch)
        for batch in loader():
            job.look(batch)
    carbon_otel.flush()
    process = carbon_otel.footprint()
    assert sum(cost.energy_j for cost in process.stages.values()) == pytest.approx(process.energy_j)
    ended = stages.ended()
    for kind in "training", "evaluation", "data_processing":
        of_kind = sum(
            each.span.attributes["carbon_otel.energy.exclusive_j"] for each in ended if each.kind == kind
        )
        assert process.stages[kind].energy_j == pytest.approx(of_kind)


@pytest.mark.parametrize("leave", ["break", "exception", "a function"])
def test_a_loop_that_is_left_early_ends_its_stage(stages, job, leave):
    def interrupted(batches):
        for batch in batches:
            job.step(batch)
            raise KeyboardInterrupt

    def first(batches):
        for batch in batches:
            job.step(batch)
            return

    batches = loader()
    if leave == "break":
        for batch in batches:
            job.step(batch)
            break
    elif leave == "exception":
        with pytest.raises(KeyboardInterrupt):
            interrupted(batches)
    else:
        first(batches)
    gc.collect()  # of the exception's frames
    for batch in batches:
        job.look(batch)
    one = {"batches": 1, "samples": BATCH, "steps": 1, "epochs": 1}
    assert passes(stages) == [("training", "epoch 1", one), ("evaluation", "evaluation", PASS)]


def test_an_evaluation_in_an_epoch_is_beside_it(stages, job):
    held_out = loader()
    for number, batch in enumerate(loader()):
        job.step(batch)
        if number == 2:
            for other in held_out:
                job.look(other)
    assert passes(stages) == [("evaluation", "evaluation", PASS), ("training", "epoch 1", EPOCH)]


def test_two_loaders_in_turn_are_one_epoch(stages, job):
    for batch, _ in zip(loader(), loader(), strict=True):
        job.step(batch)
    kinds = [(kind, name, units.get("steps")) for kind, name, units in stages()]
    assert ("training", "epoch 1", BATCHES) in kinds
    assert [kind for kind, _, steps in kinds if steps] == ["training"]


def test_a_step_that_calls_another_counts_once(stages, job):
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    torch.optim.SGD(job.model.parameters(), lr=0.01)  # so that the parent's step is hooked, too
    job.optimizer = Twice(job.model.parameters(), lr=0.01)
    for batch in loader():
        job.step(batch)
    assert passes(stages) == [("training", "epoch 1", EPOCH)]


def test_workers_open_no_stages_and_persistent_ones_begin_again(stages, job):
    batches = loader(Slow, num_workers=2, persistent_workers=True)
    for _ in range(2):
        for batch in batches:
            job.step(batch)
    del batches
    ended = [each for each in stages() if each[0] == "training"]
    assert ended == [("training", "epoch 1", EPOCH), ("training", "epoch 2", EPOCH)]


def test_a_pass_over_workers_that_stay_is_whole_where_nothing_else_has_their_loader(stages, job):
    for batch in loader(Slow, num_workers=2, persistent_workers=True):
        job.step(batch)
        carbon_otel.flush()
    assert passes(stages) == [("training", "epoch 1", EPOCH)]


def test_a_loop_in_a_process_of_its_own_is_a_stage_there(stages, job):
    """As in a rank that `torch.multiprocessing` starts."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def train() -> None:
        for batch in loader():
            job.step(batch)
        answers.put(sorted(carbon_otel.footprint().stages))

    process = context.Process(target=train)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert set(answers.get()) - {"data_processing"} == {
        "training",
        "unattributed",
    }  # waiting may take a while
    assert stages() == []


def test_a_loop_in_a_stage_of_the_user_belongs_to_it(stages, job):
    with carbon_otel.stage("training"):
        for batch in loader(Slow):
            job.step(batch)
    assert passes(stages) == [("training", "training", {})]


def test_a_pass_over_workers_that_stay_ends_with_its_break(stages, job):
    batches = loader(Slow, num_workers=1, persistent_workers=True)
    for batch in batches:
        job.step(batch)
        break
    time.sleep(0.3)  # which is no part of the pass
    for batch in loader():
        job.look(batch)
    epoch, evaluation = (each for each in stages.ended() if each.name != "DataLoader")
    one = {"batches": 1, "samples": BATCH, "steps": 1, "epochs": 1}
    assert (epoch.kind, epoch.units) == ("training", one)
    assert (evaluation.kind, evaluation.units) == ("evaluation", PASS)
    del batches


def test_a_step_after_a_break_is_none_of_the_pass_over_workers_that_stay(stages, job):
    batches = loader(num_workers=1, persistent_workers=True)
    for at, batch in enumerate(batches):
        if at == 1:
            break
        job.step(batch)
    for _ in range(20):
        job.step(batch)
    carbon_otel.uninstrument()
    epoch, steps = (each for each in stages.ended() if each.kind == "training")
    assert epoch.units == {"batches": 2, "samples": 2 * BATCH, "steps": 1, "epochs": 1}
    assert (steps.name, steps.units) == ("training", {"steps": 20})
    del batches


def test_a_pass_over_workers_that_stay_ends_by_itself(stages, job):
    batches = loader(num_workers=1, persistent_workers=True)
    for batch in batches:
        job.step(batch)
        carbon_otel.flush()  # the loop has its iterator
        break
    carbon_otel.flush()
    assert "epoch 1" in {name for _, name, _ in stages()}
    del batches


class Memory:
    """Training on tensors in memory, for about 5 ms a step."""

    def __init__(self, job: Job, batch) -> None:
        self.job, self.batch = job, batch

    def train(self, steps: int) -> None:
        for _ in range(steps):
            self.job.step(self.batch)


@pytest.fixture
def memory(job):
    return Memory(job, next(iter(loader())))


def test_steps_without_a_loader_are_training(stages, memory):
    memory.train(20)
    carbon_otel.uninstrument()
    # The first of all passes has only got the batch.
    first, training = (each for each in stages.ended() if each.name != "DataLoader")
    assert first.units == {"batches": 1, "samples": BATCH}
    assert (training.kind, training.name, training.units) == ("training", "training", {"steps": 20})
    assert training.joules >= 0.5 * 50 * 19 * 0.005


def test_every_joule_of_steps_is_in_one_place(stages, job, memory):
    with carbon_otel.stage("by_hand", "by hand"):
        memory.train(20)
        for batch in loader():
            job.look(batch)
        with carbon_otel.stage("evaluation", "mine"):
            time.sleep(0.05)
        memory.train(5)
    assert {"training", "evaluation", "mine"} <= {each.name for each in books.check(stages)}


def test_steps_in_a_stage_of_the_user_belong_to_it(stages, memory):
    stages()
    with carbon_otel.stage("training", "mine"):
        memory.train(3)
    with carbon_otel.stage("evaluation", "mine"):
        memory.train(3)
    carbon_otel.uninstrument()
    assert passes(stages) == [("training", "mine", {}), ("evaluation", "mine", {})]


def test_a_stage_of_the_user_between_steps_has_its_own_energy(stages, memory):
    stages()
    for _ in range(3):
        memory.train(4)
        with carbon_otel.stage("evaluation", "mine"):
            time.sleep(0.05)
    with carbon_otel.stage("by_hand", "by hand"):
        memory.train(4)
    carbon_otel.uninstrument()
    ended = stages.ended()
    assert [(each.name, each.parent, each.units.get("steps")) for each in ended] == [
        ("mine", None, None),
        ("mine", None, None),
        ("mine", None, None),
        ("training", None, 12),
        ("training", "by hand", 4),
        ("by hand", None, None),
    ]


def test_a_pass_between_steps_is_beside_them(stages, job, memory):
    stages()
    for _ in range(2):
        memory.train(4)
        for batch in loader():
            job.look(batch)
    carbon_otel.uninstrument()
    assert [(kind, units.get("steps")) for kind, _, units in passes(stages)] == [
        ("evaluation", None),
        ("evaluation", None),
        ("training", 8),
    ]


def test_each_thread_has_its_own_steps(stages, job):
    batch = next(iter(loader()))
    stages()
    threads = [threading.Thread(target=Memory(Job(), batch).train, args=(n,)) for n in (5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    carbon_otel.uninstrument()
    ended = [each for each in stages.ended() if each.kind == "training"]
    assert sorted(each.units["steps"] for each in ended) == [5, 9]


def test_a_compiled_step_counts(stages, job):
    torch._dynamo.reset()
    step = torch.compile(job.optimizer.step, backend="eager")
    batch = next(iter(loader()))
    before = job.model.weight.clone()
    for _ in range(4):
        job.optimizer.zero_grad()
        job.model(batch[0]).sum().backward()
        step()
    assert not torch.equal(before, job.model.weight)
    carbon_otel.uninstrument()
    assert ("training", "training", {"steps": 4}) in stages()


def test_a_closure_trains_in_one_step(stages, job):
    x, y = next(iter(loader()))
    optimizer = torch.optim.LBFGS(job.model.parameters(), max_iter=5)

    def closure():
        optimizer.zero_grad()
        loss = ((job.model(x) - y) ** 2).mean()
        loss.backward()
        time.sleep(0.02)
        return loss

    optimizer.step(closure)
    carbon_otel.uninstrument()
    (training,) = [each for each in stages.ended() if each.kind == "training"]
    assert training.units == {"steps": 1} and training.joules > 50 * 0.02 * 0.5


def test_more_epochs_than_spans_have_their_energy_together(stages, job):
    for _ in range(30):
        for batch in loader():
            job.step(batch)
    carbon_otel.uninstrument()
    ended = passes(stages)
    assert sum(units["epochs"] for _, _, units in ended) == 30
    assert sum(units["samples"] for _, _, units in ended) == 30 * SAMPLES
    assert len(ended) < 30 and "epochs" in {name for _, name, _ in ended}


def test_without_us_nothing_is_left(job):
    hooks = sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    after = sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks
    before = len(hooks), data.DataLoader.__iter__.__code__
    carbon_otel.instrument()
    assert len(hooks) == before[0] + 1 and len(after) == 1
    batches = iter(loader())
    next(batches)
    carbon_otel.uninstrument()
    next(batches)
    assert (len(hooks), data.DataLoader.__iter__.__code__) == before and not after


def test_a_compiled_step_trains(stages, job):
    compiled = torch.compile(job.model, backend="eager", fullgraph=True)
    job.model = compiled
    for batch in loader():
        job.step(batch)
    assert [(kind, name) for kind, name, _ in stages()][-1] == ("training", "epoch 1")


def test_a_step_that_fails_does_not_end_the_training(stages, job):
    def fail(*_):
        raise RuntimeError("as in a hook of the user")

    job.optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError):
        job.step(next(iter(loader())))
    job.optimizer = torch.optim.SGD(job.model.parameters(), lr=0.01)
    gc.collect()
    for batch in loader():
        job.step(batch)
    assert stages()[-1][0] == "training"


def test_loading_that_loads_is_one_pass(stages, job):
    class Inner(data.IterableDataset):
        def __iter__(self):
            for x, y in loader(Slow):
                yield from zip(x, y, strict=True)

    for batch in data.DataLoader(Inner(), batch_size=BATCH):
        job.step(batch)
    waiting, epoch = stages.ended()
    assert waiting.name == "DataLoader" and epoch.units == EPOCH
    assert epoch.span.attributes["carbon_otel.energy.exclusive_j"] > 0


def test_short_calls_in_a_pass_have_their_own_time(stages, job):
    pandas = pytest.importorskip("pandas")
    with carbon_otel.stage("by_hand", "by hand"):
        for batch in loader():
            job.step(batch)
            pandas.Series([0.05]).apply(time.sleep)
    ended = {each.name: each for each in stages.ended()}
    calls, epoch, whole = (ended[name] for name in ("Series.apply", "epoch 1", "by hand"))
    took = {name: each.span.end_time - each.span.start_time for name, each in ended.items()}
    # Each has its time: had the pass that of the calls as well, their part would be a half of this at most.
    assert calls.joules / whole.joules > 0.6 * took["Series.apply"] / took["by hand"]
    assert epoch.joules + calls.joules <= whole.joules * (1 + 1e-9)


def test_the_longer_of_two_loops_goes_on(stages, job):
    for _, batch in itertools.zip_longest(range(1), loader()):
        job.step(batch)
    for _, batch in itertools.zip_longest(short(), loader()):
        job.step(batch)
    steps = [units["steps"] for kind, _, units in stages() if kind == "training"]
    assert sum(steps) == 2 * BATCHES


def test_a_shorter_loader_that_is_repeated_does_not_divide_the_epoch(stages, job):
    for _ in range(2):
        for batch, _ in zip(loader(), itertools.cycle(short()), strict=False):
            job.step(batch)
        for _, batch in zip(itertools.cycle(short()), loader(), strict=False):
            job.step(batch)
    for batch, _ in zip(loader(), itertools.cycle(short()), strict=False):
        job.step(batch)
        break
    assert [(name, units["steps"]) for kind, name, units in stages() if kind == "training"] == [
        *((f"epoch {n}", BATCHES) for n in range(1, 5)),
        ("epoch 5", 1),
    ]


def short():
    return data.DataLoader(data.TensorDataset(torch.zeros(BATCH, 1)), batch_size=BATCH)


def test_a_loop_goes_on_after_a_sample_that_fails(stages, job):
    class Bad(data.TensorDataset):
        def __getitem__(self, index):
            if index == 0:
                raise OSError("unreadable")
            return super().__getitem__(index)

    batches = iter(loader(Bad))
    for _ in range(BATCHES):
        try:
            job.step(next(batches))
        except OSError:
            continue
    del batches
    counted = stages()
    assert sum(units.get("steps", 0) for _, _, units in counted) == BATCHES - 1


def test_what_is_told_is_what_was_used(job, tmp_path, monkeypatch):
    """More passes than spans: the sums that are exported are the counter's, and nothing is told twice."""
    told: dict[str, float] = {}
    tell = OtelSink.energy_attributed

    def note(sink, stage, joules, grams, embodied_g):
        assert min(joules) >= -1e-9
        told[stage.kind] = told.get(stage.kind, 0.0) + sum(joules)
        tell(sink, stage, joules, grams, embodied_g)

    # One that is there from the first tick on.
    monkeypatch.setattr(OtelSink, "energy_attributed", note)
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        carbon_otel.instrument(zone="FR", powercap_root=drawing.root, interval_s=0.1)
        for _ in range(30):
            for batch in loader():
                job.step(batch)
        engine = runtime.active().engine
        carbon_otel.uninstrument()
    totals = engine.books.totals(engine.root.account)
    assert sum(told.values()) == pytest.approx(sum(totals.inclusive_j), rel=1e-6)
    for kind, cost in totals.by_kind.items():
        assert told.get(kind, 0.0) == pytest.approx(cost.energy_j, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("made", ["BatchEncoding", "UserDict"])
def test_a_batch_of_a_tokeniser_has_samples(stages, made):
    if made == "UserDict":
        kind = collections.UserDict
    else:
        kind = pytest.importorskip("transformers").BatchEncoding
    for batch in data.DataLoader(
        list(range(10)), batch_size=5, collate_fn=lambda n: kind({"x": torch.tensor(n)})
    ):
        assert type(batch) is kind
    assert [(kind, units) for kind, _, units in passes(stages)] == [
        ("inference", {"batches": 2, "samples": 10})
    ]
