"""pandas, Polars and ONNX Runtime: calls that come by the thousand share the energy of the stage around them."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import Counter, defaultdict

import numpy as np
import pytest

import carbon_otel
from carbon_otel import runtime


def until(seconds: float, work) -> int:
    """Repeats the work for some time; how often."""
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        work()
        count += 1
    return count


def parts(stages, stage: str = "etl"):
    """The parts of the calls in the stage, by name the largest with the units of all, and the stage.

    On a busy machine any call may take long enough to be a stage of its own, which has no number of calls.
    """
    ended = stages.ended()
    (whole,) = [each for each in ended if each.name == stage]
    below = sorted((each for each in ended if each.parent == stage), key=lambda each: each.joules)
    units: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for each in below:
        units[each.name].update({"calls": 1, **each.units})
    children = {each.name: each._replace(units=units[each.name]) for each in below}
    own = whole.span.attributes["carbon_otel.energy.exclusive_j"]
    assert whole.joules == pytest.approx(own + sum(each.joules for each in below), rel=1e-6)
    assert own >= -1e-9
    return children, whole


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


def test_calls_of_pandas(stages, pandas, tmp_path):
    frame = pandas.DataFrame({"key": np.arange(1000) % 7, "value": np.arange(1000.0)})
    stages()
    with carbon_otel.stage("etl"):
        count = until(0.5, lambda: frame.merge(frame.groupby("key").sum(), on="key"))
        frame.to_csv(tmp_path / "frame.csv")
        pandas.read_csv(tmp_path / "frame.csv")
    children, _ = parts(stages)
    assert children.keys() >= {"DataFrame.merge", "GroupBy.sum"}
    merge = children["DataFrame.merge"]
    assert merge.kind == "data_processing"
    assert merge.units == {"calls": count, "rows": 1000 * count}
    assert "modelled.time_share" in merge.span.attributes["carbon_otel.method"]
    assert merge.span.attributes["carbon_otel.measured_fraction"] == 0


def test_a_long_call_is_a_stage_of_its_own(stages, pandas, monkeypatch):
    series = pandas.Series([0.6])
    with carbon_otel.stage("etl"):
        series.apply(time.sleep)
    children, whole = parts(stages)
    assert list(children) == ["Series.apply"] and children["Series.apply"].units == {"calls": 1, "rows": 1}
    assert "carbon_otel.units.calls" not in children["Series.apply"].span.attributes
    assert children["Series.apply"].joules <= whole.joules


def test_calls_outside_of_stages_are_parts_of_the_process(stages, pandas):
    frame = pandas.DataFrame({"value": np.arange(1000.0)})
    until(0.3, lambda: frame.sort_values("value"))
    carbon_otel.uninstrument()
    calls = {(each.kind, each.name, each.parent) for each in stages.ended()}
    assert calls == {("data_processing", "DataFrame.sort_values", None)}


def test_calls_in_a_lifecycle_stage_belong_to_it(stages, pandas):
    frame = pandas.DataFrame({"value": np.arange(1000.0)})
    with carbon_otel.stage("training"):
        until(0.2, lambda: frame.sort_values("value"))
    assert stages() == [("training", "training", {})]


def test_an_earlier_import_and_an_exception(stages, pandas, tmp_path):
    from pandas import read_csv

    with carbon_otel.stage("etl"):
        with pytest.raises(FileNotFoundError):
            read_csv(tmp_path / "missing.csv")
        (tmp_path / "some.csv").write_text("a\n1\n2\n")
        count = until(0.2, lambda: read_csv(tmp_path / "some.csv"))
    children, _ = parts(stages)
    assert children["pandas.read_csv"].units == {"calls": count + 1, "rows": 2 * count}


def test_calls_of_polars(stages, tmp_path):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"key": np.arange(1000) % 7, "value": np.arange(1000.0)})
    with carbon_otel.stage("etl"):
        lazy = until(0.3, lambda: frame.lazy().group_by("key").agg(polars.col("value").sum()).collect())
        eager = until(0.3, lambda: frame.filter(polars.col("key") == 1))
    children, _ = parts(stages)
    assert children["LazyFrame.collect"].units == {"calls": lazy, "rows": 7 * lazy}
    assert children["polars.DataFrame"].units == {"calls": eager, "rows": 143 * eager}


def test_runs_of_onnxruntime(stages):
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = np.ones((8, 4), np.float32)
    with carbon_otel.stage("etl"):
        count = until(0.3, lambda: session.run(None, {"x": batch}))
    children, _ = parts(stages)
    assert children["InferenceSession.run"].kind == "inference"
    assert children["InferenceSession.run"].units == {"calls": count, "samples": 8 * count}


def test_a_warning_has_the_line_of_the_user(pandas):
    import warnings

    left, right = pandas.DataFrame({"k": [1, 2]}), pandas.DataFrame({"k": [1.5, 2.0]})
    places = []
    for change in (lambda: None, carbon_otel.instrument):
        change()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            left.merge(right, on="k")
        places.append([warning.filename for warning in caught])
    assert places == [[__file__]] * 2


def test_threads_and_places_leave_no_cells(stages, pandas):
    """A server with a thread for each request, and calls where the current stage is not the one that pays."""
    frame = pandas.DataFrame({"value": np.arange(10.0)})
    engine = runtime.active().engine
    for _ in range(150):
        thread = threading.Thread(target=lambda: frame.sort_values("value"))
        thread.start()
        thread.join()
    engine.tick()
    engine.tick()
    # Beyond a hundred, a tick drops those of threads that have ended.
    cells = engine.shares.live[engine.root].timed
    before = len(cells)
    assert before <= 100
    with carbon_otel.stage("outer") as outer:
        held = contextvars.copy_context()
    for _ in range(50):
        held.run(frame.sort_values, "value")
    assert len(cells) <= before + 1 and not outer._last.open
