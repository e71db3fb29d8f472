"""Forks: a child neither ends nor counts the stages of its parent again; it can measure itself."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys

import pytest

import carbon_otel
from carbon_otel import runtime

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform"),
]


def test_forks_in_a_stage_while_the_sampler_ticks(launch):
    *wrong, left = launch("forks.py").finish(60).splitlines()
    assert left == "0 {'training': 40}"
    assert wrong == []


@pytest.mark.parametrize("attribution", ["reserved", "process"])
def test_a_child_can_read_the_footprint_of_an_inherited_stage(attribution, launch):
    """Whatever locks the other threads of the parent held at the fork."""
    assert launch("fork_looks.py", attribution).finish(60) == "[]\n"


def test_a_child_makes_annotated_spans_whatever_the_parents_threads_held_at_the_fork(launch):
    assert launch("fork_annotates.py").finish(120) == "[]\n"


@pytest.mark.parametrize("child", ["idles", "measures"])
def test_only_the_parent_exports_the_energy_before_a_fork(child, launch, sink):
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "OTEL_METRIC_EXPORT_INTERVAL": "100"}
    launch("fork_exports.py", child, **variables).finish(60)
    tellers: dict[str, set[str]] = {"training": set(), "inference": set(), "hw.energy": set()}
    for instance, metric in sink.exports():
        if metric.name == "carbon_otel.stage.energy":
            kinds = {a.value.string_value for point in metric.sum.data_points for a in point.attributes}
            for kind in kinds & tellers.keys():
                tellers[kind].add(instance)
        elif metric.name == "hw.energy":
            tellers[metric.name].add(instance)
    assert len(tellers["training"]) == 1
    assert tellers["hw.energy"] == tellers["training"]
    assert len(tellers["inference"] - tellers["training"]) == (child == "measures")
    names = sorted(span.name for span in sink.spans())
    assert names == (["inference", "training"] if child == "measures" else ["training"])


def _in_a_worker(_: int) -> tuple[str, bool]:
    with carbon_otel.stage("data_processing") as s:
        sum(range(200_000))
    return s.footprint.method, runtime.active() is not None


def test_workers_of_multiprocessing(tree):
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.05)
    with carbon_otel.stage("training"), multiprocessing.get_context("fork").Pool(2) as pool:
        results = pool.map(_in_a_worker, range(4))
    assert results == [("measured.counter", True)] * 4
    assert "data_processing" not in carbon_otel.footprint().stages


def test_a_worker_may_start_others(launch):
    """From a traced stage, in which carbon_otel sets the environment of children."""
    assert launch("fork_nested.py").finish(60) == "the inner one\n0\n"


def test_a_session_that_begins_in_a_worker_ends_in_order(launch, tmp_path):
    launch("fork_instruments.py", str(tmp_path / "journal.json")).finish(60)
    journal = json.loads((tmp_path / "journal.json").read_text())
    assert journal["status"] == "final" and "training" in journal["footprint"]["stages"]


def test_programs_started_from_a_stage_are_not_delayed(tree):
    """`subprocess` may use vfork, which runs no fork handlers; no patch reaches the program."""
    carbon_otel.instrument(zone="FR", powercap_root=tree.root, interval_s=0.01)
    listing = (
        "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd')[:-1]])"
    )
    with carbon_otel.stage("training") as s:
        for _ in range(5):
            done = subprocess.run(
                [sys.executable, "-Sc", listing], capture_output=True, text=True, timeout=30, check=True
            )
            assert "intel-rapl" not in done.stdout and "device-book" not in done.stdout
    assert s.footprint.method == "measured.counter"
