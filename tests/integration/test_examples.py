"""The examples run as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration import savings

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_logfire_without_a_token(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LOGFIRE_", "OTEL_"))}
    done = subprocess.run(
        [sys.executable, EXAMPLES / "logfire_pipeline.py"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for shown in ("pipeline", "data_processing", "rf", "accuracy 0."):
        assert shown in done.stdout
    assert float(done.stdout.split("training: ")[-1].removesuffix(" Wh\n")) > 0


def test_random_forest(tmp_path):
    """The example with smaller scenarios, as a reader would change them."""
    source = (EXAMPLES / "random_forest.py").read_text()
    for number in ("10_000, 100", "12_500, 125", "25_000, 250"):
        assert number in source
        source = source.replace(number, "500, 10")
    (tmp_path / "forest.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "forest.py"],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.endswith("g CO2e")]
    assert [line.partition(":")[0] for line in lines] == ["basic", "intermediate", "complex"]
    assert all("accuracy 0." in line and " Wh" in line for line in lines)


def test_forecast_llm(tmp_path):
    """It answers in both directions, and discusses the answer in a paragraph."""
    done = subprocess.run(
        [sys.executable, EXAMPLES / "forecast_llm.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answers, _, discussion = done.stdout.partition("\n\n")
    for asked in ("30B parameters, 30 days", "100B parameters, 60 days"):
        assert asked in answers
    assert answers.count("GPUs  ") == answers.count("tokens  ") == 2 and answers.count("t CO2e") == 4
    assert len(discussion.split()) > 100 and "is a factor of" in " ".join(discussion.split())
    assert "nan" not in done.stdout


def test_a_pruned_forest(drawing, empty_store):
    # Long enough for the counter, which changes every 10 ms or later: a run without energy of inference has none.
    sizes = "repeats=2, samples=1000, passes=16"
    found = savings.proof("pruned_forest", sizes, "'full', 'pruned'", drawing.root, empty_store)
    assert found["work"] == {"stage": "inference", "unit": "samples"}


def test_a_distilled_model(drawing, empty_store):
    runs = "'teacher', 'student', one_off=['distillation']"
    sizes = "repeats=2, samples=1000, passes=1"
    found = savings.proof("distilled", sizes, runs, drawing.root, empty_store)
    assert found["payback"]["names"] == ["distillation"] and found["payback"]["one_off_wh"] > 0


def test_early_stopping(drawing, empty_store):
    runs = "'all_epochs', 'stopped', stage='training'"
    sizes = "repeats=2, samples=1000, epochs=20"
    found = savings.proof("early_stopping", sizes, runs, drawing.root, empty_store)
    assert found["work"] == {"stage": "training", "unit": "run"}
