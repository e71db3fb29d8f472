"""Tasks of orchestrators: their names give the stages of a pipeline their names and kinds.

A process that an orchestrator has started for one task has a stage of that task, from `instrument()` to its end:

====================  ================================  ======================================================
orchestrator          the name of the task              source
====================  ================================  ======================================================
DVC 3.50              `DVC_STAGE`                       `dvc/env.py` and `dvc/stage/run.py`, iterative/dvc#10357
Airflow               `AIRFLOW_CTX_TASK_ID`             "Export dynamic environment variables", Airflow's guide
SageMaker training    `TRAINING_JOB_NAME`               `environment.py` of aws/sagemaker-training-toolkit
Kubeflow Pipelines 2  `--function_to_execute`           `kfp/dsl/executor_main.py`: an argument of its program
Prefect 3             `PREFECT__FLOW_ENTRYPOINT`        `prefect/runner`: the function after the colon is the flow
====================  ================================  ======================================================

The words of the name tell the kind. Inside the stage the calls of libraries are stages as they are without it.
Nothing of an orchestrator is imported. Kedro, which runs its nodes in one process, and Airflow, which runs Python
operators in its own processes, have plugins in `carbon_otel.entry_points`.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from carbon_otel.stages import arguments
from carbon_otel.stages.api import Stage, automatic
from carbon_otel.stages.arguments import LIFECYCLE, Lifecycle

# The kind of a task whose name tells none.
TASK: Final = "task"

# How the words of a name begin, by kind.
_BEGINNINGS: Final[Mapping[Lifecycle, tuple[str, ...]]] = {
    "data_processing": (
        *("load", "extract", "ingest", "download", "prep", "process", "clean", "feat", "transform"),
        *("etl", "tokeni", "join", "merge", "data"),
    ),
    "training": ("train", "fit", "finetun", "tune", "tuning", "hpo"),
    "evaluation": ("eval", "valid", "test", "scor", "metric", "benchmark"),
    "inference": ("predict", "infer", "serv", "embed", "generat"),
}
# Wherever it stands: `train_test_split` divides data.
_SPLIT: Final = "split"
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_MULTIPROCESSING: Final = ("multiprocessing.process", "multiprocess.process")


def stage_of(name: str, tags: Iterable[str] = ()) -> Stage:
    """The stage of a task by its name, or by its tags if one of them tells a kind."""
    kinds = (kind_of(each) for each in (*sorted(tags), name))
    kind = next((each for each in kinds if each is not None), None)
    name = arguments.name_of(name[: arguments.LONGEST_NAME])
    return Stage(TASK, name) if kind is None else automatic(kind, name, LIFECYCLE)


def kind_of(name: str) -> Lifecycle | None:
    """The kind that the words of a name tell: the first word that is known decides. None if none is."""
    words = [word.lower() for word in _WORD.findall(name)]
    if any(word.startswith(_SPLIT) for word in words):
        return "data_processing"
    for word in words:
        for kind, beginnings in _BEGINNINGS.items():
            if word.startswith(beginnings):
                return kind
    return None


def stage_of_process(environment: Mapping[str, str], program: Sequence[str]) -> Stage | None:
    """The stage of the task for which this process was started; None if it was started for none.

    The variables also reach the processes that the task starts: their stages belong to the task.

    Args:
        environment: the environment of the process.
        program: its program and arguments, as `sys.argv`.
    """
    if _is_worker():
        return None
    for variable, read in _VARIABLES.items():
        name = read(environment.get(variable, ""))
        if name:
            return stage_of(name)
    if environment.get(_SAGEMAKER):
        return automatic("training", environment[_SAGEMAKER], LIFECYCLE)
    name = _of_kubeflow(program)
    return stage_of(name) if name else None


def _is_worker() -> bool:
    """Whether multiprocessing has started this process."""
    processes: list[Any] = [sys.modules[each] for each in _MULTIPROCESSING if each in sys.modules]
    return any(each.parent_process() is not None for each in processes)


def _of_dvc(address: str) -> str:
    """Of `folder/dvc.yaml:train@fold1` the stage and its item."""
    return address.rpartition(":")[2]


def _of_prefect(entrypoint: str) -> str:
    """Of `flows/churn.py:train` the function."""
    return entrypoint.rpartition(":")[2]


def _of_kubeflow(program: Sequence[str]) -> str:
    if not program or PurePath(program[0]).parts[-3:] != ("kfp", "dsl", "executor_main.py"):
        return ""
    following = dict(itertools.pairwise(program))
    return following.get("--function_to_execute", "")


_SAGEMAKER: Final = "TRAINING_JOB_NAME"
# Inner ones first: a stage of DVC may run in a task of Airflow.
_VARIABLES: Final[Mapping[str, Callable[[str], str]]] = {
    "DVC_STAGE": _of_dvc,
    "PREFECT__FLOW_ENTRYPOINT": _of_prefect,
    "AIRFLOW_CTX_TASK_ID": str,
}
