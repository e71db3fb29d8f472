"""Integrations: one file for each library whose calls become stages, or pass the trace of a stage on."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from carbon_otel.background import Worker
from carbon_otel.guard import guarded
from carbon_otel.instrumentation.base import Integration, Undo
from carbon_otel.instrumentation.catboost import CATBOOST
from carbon_otel.instrumentation.dask import DASK
from carbon_otel.instrumentation.datasets import DATASETS
from carbon_otel.instrumentation.import_hook import ImportHook
from carbon_otel.instrumentation.joblib import JoblibIntegration
from carbon_otel.instrumentation.keras import KERAS
from carbon_otel.instrumentation.lightgbm import LIGHTGBM
from carbon_otel.instrumentation.lightning import LIGHTNING
from carbon_otel.instrumentation.llama_cpp import LLAMA_CPP
from carbon_otel.instrumentation.multiprocessing import ProcessIntegration, SpawnIntegration
from carbon_otel.instrumentation.multiprocessing_pools import PoolIntegration
from carbon_otel.instrumentation.onnxruntime import ONNXRUNTIME
from carbon_otel.instrumentation.optuna import OPTUNA
from carbon_otel.instrumentation.pandas import PANDAS
from carbon_otel.instrumentation.polars import POLARS
from carbon_otel.instrumentation.process_pools import ProcessPoolIntegration
from carbon_otel.instrumentation.ray_tune import RAY_TUNE
from carbon_otel.instrumentation.sentence_transformers import SENTENCE_TRANSFORMERS
from carbon_otel.instrumentation.sklearn import FUNCTIONS, SklearnIntegration
from carbon_otel.instrumentation.subprocesses import SubprocessIntegration
from carbon_otel.instrumentation.thread_pools import ThreadPoolIntegration
from carbon_otel.instrumentation.threads import ThreadIntegration
from carbon_otel.instrumentation.torch_captures import CaptureIntegration
from carbon_otel.instrumentation.torch_loops import TORCH
from carbon_otel.instrumentation.torch_ranks import RANKS
from carbon_otel.instrumentation.transformers import TRANSFORMERS
from carbon_otel.instrumentation.trio import TrioIntegration
from carbon_otel.instrumentation.uvicorn import UvicornIntegration
from carbon_otel.instrumentation.vllm import VLLM
from carbon_otel.instrumentation.xgboost import XGBOOST

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS: Final = "carbon_otel_instrumentation"

BUILT_IN: Final[tuple[Integration, ...]] = (
    SklearnIntegration(),
    *FUNCTIONS,
    *XGBOOST,
    *LIGHTGBM,
    *CATBOOST,
    *PANDAS,
    *POLARS,
    *ONNXRUNTIME,
    *LLAMA_CPP,
    *VLLM,
    *TORCH,
    CaptureIntegration(),
    *RANKS,
    *KERAS,
    *TRANSFORMERS,
    *SENTENCE_TRANSFORMERS,
    *LIGHTNING,
    *OPTUNA,
    *RAY_TUNE,
    *DATASETS,
    JoblibIntegration(),
    *DASK,
    SubprocessIntegration(),
    ProcessIntegration("multiprocessing.process"),
    ProcessIntegration("multiprocess.process"),
    SpawnIntegration("multiprocessing.spawn"),
    SpawnIntegration("multiprocess.spawn"),
    PoolIntegration("multiprocessing.pool"),
    PoolIntegration("multiprocess.pool"),
    ProcessPoolIntegration("concurrent.futures.process"),
    ProcessPoolIntegration("joblib.externals.loky.process_executor"),
    ProcessPoolIntegration("loky.process_executor"),
    ThreadIntegration(),
    ThreadPoolIntegration(),
    TrioIntegration(),
    UvicornIntegration(),
)


def install(hook: ImportHook, integrations: Iterable[Integration] = BUILT_IN) -> None:
    """Connect the integrations of imported modules now, and the others when their module is imported.

    A thread connects the integrations of other packages, because reading the entry points of all packages takes
    milliseconds. A library that is imported during this time is connected after its import.
    """
    for integration in integrations:
        hook.add(integration)
    worker = Worker("carbon_otel integrations")
    worker.submit(functools.partial(_install_other_packages, hook))
    worker.close()


def _install_other_packages(hook: ImportHook) -> None:
    for entry_point in _entry_points():
        with guarded(f"adding the integration {entry_point.value}"):
            hook.when_imported(entry_point.name, functools.partial(_connect, hook, entry_point))
            hook.catch_up(entry_point.name)


def _entry_points() -> Iterable[EntryPoint]:
    # OpenTelemetry caches the entry points that it has read; then this takes 0.2 ms.
    metadata: Any
    try:
        metadata = importlib.import_module("opentelemetry.util._importlib_metadata")
    except ImportError:
        metadata = importlib.import_module("importlib.metadata")
    return tuple(metadata.entry_points(group=ENTRY_POINTS))


def _connect(hook: ImportHook, entry_point: EntryPoint, module: ModuleType) -> Undo:
    return hook.connect(entry_point.load(), module)
