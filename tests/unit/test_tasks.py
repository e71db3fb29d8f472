"""Processes of orchestrators: the name of the task gives the stage of the process its name and kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from carbon_otel.instrumentation import tasks

PROGRAM = """
import json, sys, carbon_otel
from carbon_otel.stages.automatic import around
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(exporter))
carbon_otel.instrument(zone="FR", tracer_provider=provider)
with around("training", "Model.fit"):
    pass
if sys.argv[-1] == "child":
    import subprocess
    subprocess.run([sys.executable, __file__], check=True)
carbon_otel.uninstrument()
names = {span.context.span_id: span.name for span in exporter.get_finished_spans()}
for span in exporter.get_finished_spans():
    parent = span.parent and names.get(span.parent.span_id, "of another process")
    print(json.dumps([span.attributes["carbon_otel.stage.kind"], span.name, parent]))
"""

FIT = ["training", "Model.fit", "train"]


@pytest.fixture
def stages_of(tmp_path):
    """The stages of a program that begins to measure in this environment."""

    def run(*arguments: str, file: str = "program.py", **variables: str) -> list[list]:
        program = tmp_path / file
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(PROGRAM)
        done = subprocess.run(
            [sys.executable, program, *arguments],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


@pytest.mark.parametrize(
    ("variables", "kind", "name"),
    [
        ({"DVC_STAGE": "train"}, "training", "train"),
        ({"DVC_STAGE": "models/dvc.yaml:train@2"}, "training", "train@2"),
        ({"AIRFLOW_CTX_DAG_ID": "churn", "AIRFLOW_CTX_TASK_ID": "evaluate"}, "evaluation", "evaluate"),
        ({"AIRFLOW_CTX_TASK_ID": "nightly", "DVC_STAGE": "prepare"}, "data_processing", "prepare"),
        ({"PREFECT__FLOW_ENTRYPOINT": "flows/churn.py:predict_all"}, "inference", "predict_all"),
        ({"TRAINING_JOB_NAME": "churn-2026-01-01"}, "training", "churn-2026-01-01"),
        ({"DVC_STAGE": "publish"}, "task", "publish"),
    ],
)
def test_the_whole_process_is_a_stage_of_its_task(stages_of, variables, kind, name):
    assert stages_of(**variables) == [["training", "Model.fit", name], [kind, name, None]]


def test_a_component_of_kubeflow_pipelines(stages_of):
    arguments = ("--component_module_path", "x", "--function_to_execute", "train", "--executor_input", "{}")
    found = stages_of(*arguments, file="kfp/dsl/executor_main.py")
    assert found == [FIT, ["training", "train", None]]
    assert stages_of(*arguments) == [["training", "Model.fit", None]]


def test_a_process_of_no_orchestrator_has_no_such_stage(stages_of):
    assert stages_of(DVC_STAGE="") == [["training", "Model.fit", None]]


def test_a_program_that_the_task_starts_belongs_to_it(stages_of):
    found = stages_of("child", DVC_STAGE="train")
    assert found == [["training", "Model.fit", "of another process"], FIT, ["training", "train", None]]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("train_test_split", "data_processing"),
        ("prepare_training_data", "data_processing"),
        ("preprocess", "data_processing"),
        ("TrainModel", "training"),
        ("fine-tune", "training"),
        ("finetune-llama", "training"),
        ("hpo.search", "training"),
        ("evaluate_training", "evaluation"),
        ("test_model", "evaluation"),
        ("XGBPredict", "inference"),
        ("batch_inference", "inference"),
        ("publish", None),
        ("", None),
        ("42", None),
    ],
)
def test_the_words_of_a_name_tell_the_kind(name, kind):
    assert tasks.kind_of(name) == kind
