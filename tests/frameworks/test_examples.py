"""The examples run, and their automatic stages have the energy of hand-written ones around the same lines."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

import carbon_otel
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server
from tests.integration import savings
from tests.integration.processes import wait_for
from tests.integration.stores import EmptyStore

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(stages, least: float = 0.95) -> dict[str, float]:
    """The automatic stages have what a stage by hand around the same lines has; the joules by kind.

    On an idle machine 99 % is theirs; a busy one may stop the program between two stages. Half a joule is what the
    counter draws between two of its steps.
    """
    ended = stages.ended()
    (by_hand,) = [each for each in ended if each.name == "by hand"]
    own = by_hand.span.attributes["carbon_otel.energy.exclusive_j"]
    assert own <= (1 - least) * by_hand.joules + 0.5 * len(ended)
    kinds: dict[str, float] = {}
    for each in ended:
        if each is not by_hand:
            exclusive = each.span.attributes["carbon_otel.energy.exclusive_j"]
            kinds[each.kind] = kinds.get(each.kind, 0.0) + exclusive
    assert sum(kinds.values()) + own == pytest.approx(by_hand.joules, rel=1e-6)
    return kinds


@pytest.mark.parametrize("name", ["torch_images", "finetune", "boosting", "service"])
def test_the_example_runs_as_it_is(name, tmp_path):
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "training" in done.stdout and "mg CO2e" in done.stdout
    assert "carbon_otel" not in done.stderr.replace("carbon_otel.stage", ""), done.stderr


def test_images(stages):
    torch_images = example("torch_images")
    model = torch_images.network()
    batches = torch_images.DataLoader(
        torch_images.images(4096, 0), batch_size=64, num_workers=1, persistent_workers=True
    )
    held_out = torch_images.DataLoader(torch_images.images(1024, 1), batch_size=64)
    torch_images.train(model, batches, 0)  # the first optimizer imports more of PyTorch
    with carbon_otel.stage("by_hand", "by hand"):
        torch_images.train(model, batches, 5)
    assert check(stages).keys() >= {"training"}
    with carbon_otel.stage("by_hand", "by hand"):
        torch_images.accuracy(model, held_out)
    assert check(stages).keys() >= {"evaluation"}


def test_finetuning(stages, tmp_path):
    tuner = example("finetune").trainer(str(tmp_path), epochs=1, texts=64)
    with carbon_otel.stage("by_hand", "by hand"):
        tuner.train()
    assert list(check(stages)) == ["training"]
    with carbon_otel.stage("by_hand", "by hand"):
        tuner.evaluate()
    assert list(check(stages)) == ["evaluation"]


def test_boosting(stages):
    boosting = example("boosting")
    matrices = boosting.matrices(boosting.table(5_000))
    stages()
    with carbon_otel.stage("by_hand", "by hand"):
        boosting.search(*matrices, trials=4)
    assert check(stages).keys() == {"training", "inference"}


def test_a_service(stages):
    service = example("service")
    server = service.uvicorn.Server(service.uvicorn.Config(service.service(), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        stages()
        port = server.servers[0].sockets[0].getsockname()[1]
        assert asyncio.run(service.load(f"http://127.0.0.1:{port}", 20)) == 20
    finally:
        server.should_exit = True
        thread.join()
    answers = [each for each in stages.ended() if each.kind == "inference"]
    assert len(answers) == 20
    assert {each.name for each in answers} == {"RandomForestClassifier.predict"}
    assert {each.units["samples"] for each in answers} == {16}


@pytest.fixture
def powercap(tmp_path):
    """A package that draws 50 W, for a measurement in another process."""
    with Drawing(server(tmp_path / "sys"), zones=1, watts=50) as drawing:
        yield drawing.root


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    return EmptyStore(tmp_path_factory.getbasetemp())


def test_a_quantised_model(powercap, empty_store):
    runs = "'narrow_float32', 'narrow_int8'"
    found = savings.proof("quantised", "repeats=2, work=400", runs, powercap, empty_store, proofs=2)
    assert found["work"] == {"stage": "inference", "unit": "samples"}


def test_the_size_of_a_batch(powercap, empty_store):
    runs = "'small', 'large'"
    found = savings.proof("batch_size", "repeats=2, epochs=30", runs, powercap, empty_store, proofs=2)
    assert found["work"] == {"stage": "training", "unit": "run"}
