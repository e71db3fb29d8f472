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

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from carbon_otel import runtime as _runtime
from carbon_otel._version import __version__
from carbon_otel.footprint import NOT_MEASURED as _NOT_MEASURED
from carbon_otel.footprint import Footprint
from carbon_otel.guard import contain as _contain
from carbon_otel.stages.api import Stage, inject, stage

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from carbon_otel.lifecycle.report import Report

__all__ = [
    "Footprint",
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
    interval: float | None = None,
    attribution: Literal["reserved", "process"] | None = None,
    cpu_family: str | None = None,
    powercap_root: str | Path | None = None,
    checkpoint_interval: float | None = None,
    synchronize: bool | None = None,
    annotate_spans: bool | None = None,
    lineage: str | None = None,
    efficiency_metric: str | None = None,
    trace_url: str | None = None,
    mlflow_traces: bool | None = None,
    state_dir: str | Path | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Begin measuring this process.

    Calling it again with the same arguments changes nothing; with others, it begins a new session. What is not
    given comes from the `CARBON_OTEL_*` variables, then `[tool.carbon_otel]` in pyproject.toml, then the
    default. With `CARBON_OTEL_DISABLED=true` it does nothing.

    Args:
        zone: country whose grid the emissions are computed with: `FR`, `FRA` or `France`. Without one, the
            world average is used, with one warning.
        pue: power usage effectiveness of the site, from 1.0; multiplies emissions, not energy.
        interval: seconds between two readings of the sampler, 0.01 to 30; 1 by default.
        attribution: `reserved`: the whole machine, or the share that a cgroup reserves. `process`: this process
            tree's share by CPU time. GPUs are those that `CUDA_VISIBLE_DEVICES` shows, split among the measured
            processes that see them.
        cpu_family: family of the processor, such as `epyc-genoa`, where it is modelled and the host does not
            say it.
        powercap_root: folder with the `intel-rapl:*` zones, where it is not `/sys/class/powercap`.
        checkpoint_interval: seconds between two writes to MLflow while a run is open; 15 by default.
        synchronize: wait for the accelerator at a stage's edges, where torch has one in use; True by default.
        annotate_spans: put the energy of its time on every span that the application makes; False by default.
            Windows overlap and nest: they are never to be added up.
        lineage: name of the model's life that this process's MLflow runs belong to; by default their experiment.
        efficiency_metric: metric that your MLflow runs log, such as `accuracy`; each run gets it per gram of CO2e.
        trace_url: address of a trace where you look at traces, with `{trace_id}` in it; MLflow runs link to it.
        mlflow_traces: show stages in MLflow's own traces, too, below your spans; by default they are.
        state_dir: folder for what an MLflow server has not taken yet; by default `carbon_otel` below
            XDG_STATE_HOME, `~/.local/state`.
        tracer_provider, meter_provider: OpenTelemetry providers. By default the application's; if it has none
            and `OTEL_EXPORTER_OTLP_ENDPOINT` is set, ones of our own that export there.

    Raises:
        ValueError: for a wrong setting; the message says what to write instead.
    """
    from carbon_otel import config

    if config.disabled():
        return
    settings = config.resolve(
        {
            "zone": zone,
            "pue": pue,
            "interval": interval,
            "attribution": attribution,
            "cpu_family": cpu_family,
            "powercap_root": powercap_root,
            "checkpoint_interval": checkpoint_interval,
            "synchronize": synchronize,
            "annotate_spans": annotate_spans,
            "lineage": lineage,
            "efficiency_metric": efficiency_metric,
            "trace_url": trace_url,
            "mlflow_traces": mlflow_traces,
            "state_dir": state_dir,
        }
    )
    from carbon_otel.session import Session

    options = _runtime.Options(settings, tracer_provider, meter_provider)
    _contain("instrumenting", _runtime.start, None, options, Session)
    _runtime.end_at_exit()


def uninstrument() -> None:
    """Stop measuring and undo every patch. Open stages end here; MLflow runs get their totals."""
    _contain("uninstrumenting", _runtime.stop, None)


def report(
    model: str, *, tracking_uri: str | None = None, zone: str | None = None, year: int | None = None
) -> Report:
    """What a model has cost so far, over all measured MLflow runs of its lineage.

    Args:
        model: a registered model (`churn`, `churn/3`, `churn@champion`), a model id, a run id, an experiment or a
            lineage.
        tracking_uri: the MLflow store, instead of MLflow's default.
        zone: compute the emissions anew for this country's grid.
        year: compute them anew with the grids of this year; by default the newest.

    Raises:
        LookupError: for a name that the store does not know; the message says what may be named.
        ValueError: for a zone or a year that the grid table does not have.
        ImportError: without mlflow.
    """
    import mlflow

    from carbon_otel.lifecycle.ledger import read
    from carbon_otel.lifecycle.report import report_of

    return report_of(read(mlflow.MlflowClient(tracking_uri), model), zone, year)


def footprint() -> Footprint:
    """This process so far: `exclusive_j` is what no stage paid, `stages` has the sums by kind of stage."""
    active = _runtime.active()
    return (
        _NOT_MEASURED
        if active is None
        else _contain("computing a footprint", active.footprint, _NOT_MEASURED)
    )


def flush(timeout: float = 5.0) -> bool:
    """Read the sensors now and send what is pending; False if not everything was sent within `timeout` seconds."""
    active = _runtime.active()
    return True if active is None else _contain("flushing", active.flush, False, timeout)
