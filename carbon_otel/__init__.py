"""The energy and carbon meter for ML pipelines.

    import carbon_otel

    carbon_otel.instrument(zone="FR")          # once; everything below is then measured

    with carbon_otel.stage("training") as s:
        model.fit(X, y)
    print(s.footprint.energy_wh, "Wh,", s.footprint.emissions_g, "g CO2e")

Each stage becomes an OpenTelemetry span with metrics; each MLflow run receives its energy and emissions. Every
figure carries its band, the method behind it and the source of its factors.
"""

from __future__ import annotations

import threading as _threading
import warnings as _warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from carbon_otel import runtime as _runtime
from carbon_otel._version import __version__
from carbon_otel.footprint import NOT_MEASURED as _NOT_MEASURED
from carbon_otel.footprint import Cost, Energy, Footprint
from carbon_otel.guard import contain as _contain
from carbon_otel.guard import log_fault as _log_fault
from carbon_otel.guard import log_once as _log_once
from carbon_otel.guard import without_secrets as _without_secrets
from carbon_otel.stages import handing_on as _handing_on  # noqa: F401 - loads the tasks of pools
from carbon_otel.stages.api import Stage, inject, stage

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from carbon_otel.lifecycle.report import Report
else:

    def __getattr__(name: str) -> type:
        # Lazy: most programs never ask for a report.
        if name == "Report":
            from carbon_otel.lifecycle.report import Report

            return Report
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Cost",
    "Energy",
    "Footprint",
    "Report",
    "Stage",
    "__version__",
    "flush",
    "footprint",
    "inject",
    "instrument",
    "report",
    "stage",
    "uninstrument",
]


def instrument(
    *,
    zone: str | None = None,
    pue: float | None = None,
    interval_s: float | None = None,
    attribution: Literal["reserved", "process"] | None = None,
    cpu_family: str | None = None,
    powercap_root: str | Path | None = None,
    checkpoint_interval_s: float | None = None,
    synchronize: bool | None = None,
    annotate_spans: bool | None = None,
    remote_estimates: Literal["benchmark", "ecologits"] | None = None,
    lineage: str | None = None,
    efficiency_metric: str | None = None,
    trace_url: str | None = None,
    mlflow_traces: bool | None = None,
    state_dir: str | Path | None = None,
    flush_on_sigterm: bool | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    interval: float | None = None,
    checkpoint_interval: float | None = None,
) -> None:
    """Begin measuring this process.

    A second call with the same arguments changes nothing; with other arguments it begins a new session. A
    setting that is not given comes from its `CARBON_OTEL_*` variable, then from `[tool.carbon_otel]` in
    pyproject.toml, then from its default. With `CARBON_OTEL_DISABLED=true` the call does nothing.

    Args:
        zone: Country whose grid the emissions are computed with: `FR`, `FRA` or `France`. Default: world
            average, with a warning.
        pue: Power usage effectiveness of the site; it multiplies emissions, never energy. Default: 1.0.
        interval_s: Seconds between two readings of the sampler, from 0.01 to 30. Default: 1.
        attribution: `reserved` charges the machine, or the share of it that a cgroup reserves; `process`
            charges the share of this process tree by CPU time. Default: `reserved`.
        cpu_family: Row of the processor table, such as `epyc-genoa`, for guests that hide their processor.
            Default: from /proc/cpuinfo.
        powercap_root: Folder with the `intel-rapl:*` zones. Default: `/sys/class/powercap`.
        checkpoint_interval_s: Seconds between two writes to MLflow and to the journal. Default: 15.
        synchronize: Wait for the GPU at the edges of a stage if torch uses one. Default: true.
        annotate_spans: Put the energy of their time window on the application's own spans; windows overlap,
            so never add them up. Default: false.
        remote_estimates: Estimate what calls of remote language models take elsewhere, from the spans of their
            clients: by `benchmark`, the joules per token of open models, or by the package `ecologits`; in no
            other figure. Default: none.
        lineage: Name of the model life that this process's MLflow runs belong to, for `carbon-otel report`.
            Default: the run's experiment.
        efficiency_metric: Metric that your MLflow runs log, such as `accuracy`; each run gets it per gram of
            CO2e too. Default: none.
        trace_url: Address of a trace in your trace viewer, with `{trace_id}` in it; MLflow runs link to it.
            Default: none.
        mlflow_traces: Show stages in MLflow's own traces too, below your spans. Default: true.
        state_dir: Folder for checkpoints that an MLflow server has not taken yet. Default:
            `$XDG_STATE_HOME/carbon_otel`.
        flush_on_sigterm: On SIGTERM, send what was measured before the process ends by it, within 2 seconds;
            only where the program leaves the signal at its default action. Default: true.
        tracer_provider: OpenTelemetry tracer provider. Default: the application's; if it has none and
            `OTEL_EXPORTER_OTLP_ENDPOINT` is set, a private one that exports there.
        meter_provider: OpenTelemetry meter provider. Default: the same.
        interval: former name of `interval_s`.
        checkpoint_interval: former name of `checkpoint_interval_s`.

    Raises:
        ValueError: for a wrong setting; the message has the correct values.
    """
    arguments = dict(locals())
    from carbon_otel import config

    for former in ("interval", "checkpoint_interval"):
        if arguments[former] is not None:
            _warnings.warn(f"{former} is now called {former}_s", DeprecationWarning, stacklevel=2)
    if config.disabled():
        return
    if not _threads_may_run():
        return
    from carbon_otel.session import Session, Waiting

    try:
        settings = config.resolve(arguments)
    except OSError as fault:  # the package's own tables, in a test of the application with a fake file system
        _log_fault("reading the settings", fault)
        return
    options = _runtime.Options(settings, tracer_provider, meter_provider)
    if _runtime.being_started():
        _contain("instrumenting", None, _runtime.start_at_first_stage, options, Waiting)
    else:
        _contain("instrumenting", None, _runtime.start, options, Session)
    _runtime.end_at_exit()


def _threads_may_run() -> bool:
    """Whether this is an interpreter with daemon threads; an isolated sub-interpreter has none."""
    allowed = getattr(_threading, "_daemon_threads_allowed", lambda: True)()  # of Python 3.12
    if not allowed:
        _log_once(
            "a sub-interpreter cannot be measured by itself: call instrument() in the main interpreter, whose "
            "figures include it",
        )
    return bool(allowed)


def uninstrument() -> None:
    """Stop measuring and undo every patch. Open stages end here; MLflow runs get their totals."""
    _contain("uninstrumenting", None, _runtime.stop)


def report(
    model: str, *, tracking_uri: str | None = None, zone: str | None = None, year: int | None = None
) -> Report:
    """Add up the cost of a model over all measured MLflow runs of its lineage.

    Args:
        model: a registered model (`churn`, `churn/3`, `churn@champion`), a model id, a run id, an experiment or a
            lineage.
        tracking_uri: the MLflow store, instead of MLflow's default.
        zone: recompute the emissions with this country's grid.
        year: recompute them with the grid of this year; by default the newest one.

    Raises:
        LookupError: for a name that the store does not know; the message lists the kinds of name.
        ValueError: for a zone or a year that the grid table does not have.
        ImportError: if mlflow is not installed.
    """
    import mlflow

    from carbon_otel.lifecycle.ledger import read
    from carbon_otel.lifecycle.report import report_of

    try:
        return report_of(read(mlflow.MlflowClient(tracking_uri), model), zone, year)
    except Exception as error:  # noqa: BLE001 - every kind of store raises its own
        fault = _without_secrets(error)
    raise fault


def footprint() -> Footprint:
    """The footprint of this process so far.

    Its `exclusive_j` is the energy outside of stages; its `stages` has the sums by kind of stage.
    """
    active = _runtime.active()
    return (
        _NOT_MEASURED
        if active is None
        else _contain("computing a footprint", _NOT_MEASURED, active.footprint)
    )


def flush(timeout: float = 5.0) -> bool:
    """Read the sensors now and send all pending telemetry; False if `timeout` seconds were not enough."""
    active = _runtime.active()
    return True if active is None else _contain("flushing", False, active.flush, timeout)
