"""The ranks of a distributed training: one run, one trace, each joule once, the figures of each rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import carbon_otel
from carbon_otel.cli import app
from carbon_otel.instrumentation import torch_ranks
from carbon_otel.mlflow.schema import contributions
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration import stored
from tests.integration.processes import free_port
from tests.integration.stores import EmptyStore

distributed = pytest.importorskip("torch.distributed")
mlflow = pytest.importorskip("mlflow")

PROGRAMS = Path(__file__).with_name("programs")
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node")
# As for other tests of several processes: extrapolation at the edges, and changes between two readings of a tick.
TOLERANCE = 0.04
# Of `programs/ranks.py`.
ROWS, BATCH, EPOCHS = 48, 4, 2
ENERGY = "carbon_otel.energy.exclusive_j"


class Trained(NamedTuple):
    """A training that has ended: its runs, and the books of each process."""

    uri: str
    runs: list[Any]
    books: list[dict[str, Any]]

    @property
    def run(self) -> Any:
        (only,) = self.runs
        return only

    def joules(self, kind: str) -> float:
        """What the stages of a kind have used in the run, by the spans of all ranks."""
        return sum(
            span[ENERGY]
            for each in self.books
            for span in each["spans"]
            if span["carbon_otel.stage.kind"] == kind and self._is_in_run(span, each["spans"])
        )

    def _is_in_run(self, span: dict[str, Any], spans: list[dict[str, Any]]) -> bool:
        """A stage may end before its rank knows the run, within one that is in the run at its end."""
        above = [each for each in spans if each["id"] == span["parent"]]
        return span.get("carbon_otel.run.id") == self.run.info.run_id or any(
            self._is_in_run(each, spans) for each in above
        )

    def metric(self, name: str) -> float:
        return stored.figures(self.run)[f"carbon/{name}"]

    def check(self) -> None:
        """Each joule is in one place: in the books of one process, and of those in the run in one part of it."""
        for each in self.books:
            assert sum(each["stages"].values()) == pytest.approx(each["all"], rel=1e-6)
        drawn = [each["drawn"] for each in self.books]
        last = max(each["closed"] for each in drawn)
        at_least = last - min(each["begun"] for each in drawn)
        at_most = last - min(each["before"] for each in drawn)
        total = sum(each["all"] for each in self.books)
        assert at_least * (1 - TOLERANCE) < total < at_most * (1 + TOLERANCE)
        parts = contributions.read(self.run.data.tags).values()
        run_wh = self.metric("energy_wh")
        assert sum(part.values.get("carbon/energy_wh", 0.0) for part in parts) == pytest.approx(
            run_wh, rel=1e-6
        )
        figures, tags = contributions.figures_and_tags(self.run.data.metrics, self.run.data.tags)
        kinds = [name for name in figures if name.count("/") == 2 and name.endswith("/energy_wh")]
        assert sum(figures[name] for name in kinds) == pytest.approx(run_wh, rel=1e-6)
        assert self.metric("training/energy_wh") * 3600 == pytest.approx(self.joules("training"), rel=1e-6)
        assert {span["trace"] for each in self.books for span in each["spans"]} == {
            int(tags["carbon.trace_id"], 16)
        }

    def ranks(self) -> list[dict[str, Any]]:
        """The rows of the report."""
        return carbon_otel.report(self.run.info.run_id, tracking_uri=self.uri).ranks()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> EmptyStore:
    return EmptyStore(tmp_path_factory.getbasetemp())


@pytest.fixture
def train(tmp_path: Path, empty_store: EmptyStore) -> Iterator[Callable[..., Trained]]:
    """Run a program with this launcher; `fails` if it is meant to."""
    (tmp_path / "state").mkdir()
    uri = empty_store.copy(tmp_path)
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as package:

        def run(launcher: tuple[str, ...], program: str, way: str, *, fails: bool = False) -> Trained:
            arguments = (str(PROGRAMS / program), way, uri, str(package.root), str(tmp_path))
            done = subprocess.run(
                [sys.executable, *launcher, *arguments],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=280,
            )
            assert (done.returncode != 0) is fails, done.stdout + done.stderr
            assert "internal" not in done.stderr, done.stderr
            if not fails:
                # On a busy machine a rank may end later than the first one waits, and leaves its part to others.
                state = {"CARBON_OTEL_STATE_DIR": str(tmp_path / "state")}
                sent = CliRunner().invoke(app, ["mlflow", "sync", "--tracking-uri", uri], env=state)
                assert sent.exit_code == 0, sent.output
            found = list(mlflow.MlflowClient(uri).search_runs(["0"], order_by=["start_time"]))
            books = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("books-*.json"))]
            return Trained(uri, found, books)

        yield run


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_loop_under_torchrun(train, ranks):
    trained = train((*TORCHRUN, str(ranks)), "ranks_loop.py", "loop")
    trained.check()
    assert trained.run.data.tags["carbon.status"] == "final"
    assert sum(each["mlflow"] for each in trained.books) == 1
    # Each rank trains on its part of the rows. What they do together counts once.
    assert trained.metric("units/training/samples") == EPOCHS * ROWS
    assert trained.metric("units/training/steps") == EPOCHS * ROWS / BATCH / ranks
    assert trained.metric("units/training/epochs") == EPOCHS
    rows = trained.ranks()
    assert [(row["rank"], row["world_size"], row["final"]) for row in rows] == [
        (rank, ranks, True) for rank in range(ranks)
    ]
    assert sum(row["energy_wh"] for row in rows) == pytest.approx(trained.metric("energy_wh"), rel=1e-6)
    assert {(row["samples"], row["steps"]) for row in rows} == {
        (EPOCHS * ROWS / ranks, EPOCHS * ROWS / BATCH / ranks)
    }
    assert f"{ranks} ranks" in trained.run.data.tags["carbon.ranks"]
    assert "rank 1 is the slowest" in trained.run.data.tags["carbon.ranks"]
    assert "rank 1 is the slowest" in trained.run.data.tags["mlflow.note.content"]
    spans = [span for each in trained.books for span in each["spans"] if span["name"] == "epoch 1"]
    assert sorted(span["carbon_otel.rank"] for span in spans) == list(range(ranks))
    assert {span["carbon_otel.world_size"] for span in spans} == {ranks}
    (run,) = [span for each in trained.books for span in each["spans"] if span["name"] == "mlflow.run"]
    assert {span["parent"] for span in spans} == {run["id"]}


def test_stages_that_began_before_the_run_are_in_it(train):
    trained = train((*TORCHRUN, "2"), "ranks_loop.py", "early")
    trained.check()
    assert trained.metric("units/training/samples") == EPOCHS * ROWS
    assert [row["samples"] for row in trained.ranks()] == [EPOCHS * ROWS / 2] * 2


def test_a_rank_that_looks_after_the_run_finds_it(train):
    trained = train((*TORCHRUN, "2"), "ranks_loop.py", "late")
    assert trained.metric("units/training/samples") == EPOCHS * ROWS
    assert [row["samples"] for row in trained.ranks()] == [EPOCHS * ROWS / 2] * 2


def test_trainings_one_after_the_other_are_each_in_its_own_run(train):
    """Rank 1 goes on to the next one while rank 0 still ends the run of the last."""
    pytest.importorskip("transformers")
    trained = train((*TORCHRUN, "2"), "ranks_trainer.py", "folds")
    assert len(trained.runs) == 3
    for run in trained.runs:
        assert stored.figures(run)["carbon/units/training/samples"] == EPOCHS * ROWS
        rows = carbon_otel.report(run.info.run_id, tracking_uri=trained.uri).ranks()
        assert [row["samples"] for row in rows] == [EPOCHS * ROWS / 2] * 2


def test_a_rank_that_is_killed_leaves_a_lower_bound(train):
    trained = train((*TORCHRUN, "2"), "ranks_loop.py", "killed", fails=True)
    (killed,) = [row for row in trained.ranks() if not row["final"] and row["rank"] == 1]
    assert killed["energy_wh"] > 0 and killed["samples"] == ROWS / 2
    (entry,) = carbon_otel.report(trained.run.info.run_id, tracking_uri=trained.uri).entries
    assert entry.lower_bound == "has not ended in order"
    assert sum(rank.energy_wh for rank in entry.ranks) == pytest.approx(entry.energy_wh, rel=1e-6)


@pytest.mark.parametrize(
    "launcher",
    [
        (*TORCHRUN, "2"),
        ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port"),
    ],
    ids=["torchrun", "accelerate"],
)
def test_a_trainer_of_transformers(train, launcher):
    pytest.importorskip("transformers")
    if launcher[-1] == "--main_process_port":  # whatever the option is called, the script trains on the CPU
        launcher = (*launcher, str(free_port()))
    trained = train(launcher, "ranks_trainer.py", "trainer")
    trained.check()
    assert trained.metric("units/training/samples") == EPOCHS * ROWS
    assert trained.metric("units/training/steps") == EPOCHS * ROWS / BATCH / 2
    assert trained.metric("units/training/epochs") == EPOCHS
    rows = trained.ranks()
    assert [row["rank"] for row in rows] == [0, 1]
    assert sum(row["energy_wh"] for row in rows) == pytest.approx(trained.metric("energy_wh"), rel=1e-6)


def test_rank_0_writes_while_the_application_waits_for_a_key(tmp_path):
    store = distributed.PrefixStore("job", distributed.FileStore(str(tmp_path / "store"), 1))
    waiting = threading.Thread(target=store.wait, args=(["never"], timedelta(seconds=60)), daemon=True)
    waiting.start()
    board = torch_ranks._Store(lambda: store)
    board.write("a word")
    assert waiting.is_alive()
    store.set("never", "now")
    waiting.join(60)
    assert board.read() == "a word"


def test_a_store_written_in_python_is_a_board():
    class Store(distributed.Store):
        def __init__(self) -> None:
            super().__init__()
            self.words = {}

        def set(self, key, value):
            self.words[key] = value.encode()

        def get(self, key):
            return self.words[key]

        def check(self, keys):
            return all(key in self.words for key in keys)

    store = Store()
    board = torch_ranks._Store(lambda: store)
    assert board.read() is None
    board.write("a word")
    assert board.read() == "a word"


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_lightning(train, strategy):
    pytest.importorskip("lightning")
    trained = train((), "ranks_lightning.py", strategy)
    trained.check()
    assert trained.metric("units/training/samples") == EPOCHS * ROWS
    assert trained.metric("units/training/steps") == EPOCHS * ROWS / BATCH / 2
    assert trained.metric("units/training/epochs") == EPOCHS
    assert [row["rank"] for row in trained.ranks()] == [0, 1]
    fits = [span for each in trained.books for span in each["spans"] if span["name"] == "Trainer.fit"]
    assert len(fits) == (2 if strategy == "ddp" else 3)  # the process that spawns them waits for them
    ids = {span["id"] for each in trained.books for span in each["spans"]}
    assert sum(span["parent"] not in ids for each in trained.books for span in each["spans"]) == 1
