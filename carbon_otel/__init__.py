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

import sys as _sys
import threading as _threading
import warnings as _warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from carbon_otel import forecast as _room  # noqa: F401 - before the function of this name, which replaces it
from carbon_otel import runtime as _runtime
from carbon_otel._version import __version__
from carbon_otel.footprint import NOT_MEASURED as _NOT_MEASURED
from carbon_otel.footprint import Cost, Energy, Footprint
from carbon_otel.guard import contain as _contain
from carbon_otel.guard import log_fault as _log_fault
from carbon_otel.guard import log_once as _log_once
from carbon_otel.keywords import near_ones_named as _near_ones_named
from carbon_otel.questions import advise, prove, report, when, where
from carbon_otel.stages import handing_on as _handing_on  # noqa: F401 - loads the tasks of pools
from carbon_otel.stages.api import Stage, inject, stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from carbon_otel.forecast.records import Forecast
    from carbon_otel.foresight.progress import Outlook, Progress
    from carbon_otel.lifecycle.report import Report
else:

    def __getattr__(name: str) -> type:
        # Lazy: most programs never ask for a report.
        if name == "Report":
            from carbon_otel.lifecycle.report import Report

            return Report
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_T = TypeVar("_T")

__all__ = [
    "Cost",
    "Energy",
    "Footprint",
    "Report",
    "Stage",
    "__version__",
    "advise",
    "flush",
    "footprint",
    "forecast",
    "inject",
    "instrument",
    "progress",
    "prove",
    "report",
    "stage",
    "uninstrument",
    "when",
    "where",
]


@_near_ones_named
def instrument(
    *,
    zone: str | None = None,
    region: str | None = None,
    pue: float | None = None,
    detect_region: bool | None = None,
    intensity: str | None = None,
    embodied_kg: float | None = None,
    lifetime_years: float | None = None,
    market_intensity: float | None = None,
    market_source: str | None = None,
    water: bool | None = None,
    interval_s: float | None = None,
    attribution: Literal["reserved", "process"] | None = None,
    cpu_family: str | None = None,
    powercap_root: str | Path | None = None,
    checkpoint_interval_s: float | None = None,
    synchronize: bool | None = None,
    annotate_spans: bool | None = None,
    progress_bars: bool | None = None,
    remote_estimates: Literal["benchmark", "ecologits"] | None = None,
    lineage: str | None = None,
    efficiency_metric: str | None = None,
    trace_url: str | None = None,
    mlflow_traces: bool | None = None,
    state_dir: str | Path | None = None,
    flush_on_sigterm: bool | None = None,
    announce: bool | None = None,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    interval: float | None = None,
    checkpoint_interval: float | None = None,
) -> None:
    """Begin measuring this process.

    The measurement lasts until `uninstrument()` or the end of the process. A later call changes the settings that
    its arguments name, and nothing else: stages stay open and totals go on. A zone and a PUE then hold from the
    start of the measurement; `powercap_root` and `cpu_family` stay as they were.

    A setting that the first call does not give comes from its `CARBON_OTEL_*` variable, then from
    `[tool.carbon_otel]` in pyproject.toml, then from its default. With `CARBON_OTEL_DISABLED=true` the call does
    nothing.

    Args:
        zone: Country, or grid within one, that the emissions are computed with: `FR`, `FRA`, `France`,
            `US-CAL-CISO`, `CA-QC`. Default: that of the region, else the world average, with a warning.
        region: Cloud region of the machine, such as `gcp:europe-west9` or `aws:eu-north-1`; it gives the zone
            and the PUE where they are not set. Default: none.
        pue: Power usage effectiveness of the site; it multiplies emissions, never energy. Default: that of the
            region, else 1.0.
        detect_region: Where no region is set, ask the metadata service of the cloud whose machine this is, for
            0.3 s at most. Default: false.
        intensity: Provider of the grid's intensity by the hour, such as `uk`, or a CSV file; it is asked over the
            network, by a thread of its own. Default: the yearly mean of the table.
        interval_s: Seconds between two readings of the sampler, from 0.01 to 30. Default: 1.
        attribution: `reserved` charges the machine, or the share of it that a cgroup reserves; `process`
            charges the share of this process tree by CPU time. Default: `reserved`.
        cpu_family: Row of the processor table, such as `epyc-genoa`, for guests that hide their processor.
            Default: from /proc/cpuinfo.
        powercap_root: Folder with the `intel-rapl:*` zones. Default: `/sys/class/powercap`.
        checkpoint_interval_s: Seconds between two writes to MLflow and to the journal. Default: 15.
        synchronize: Wait at the edges of a stage for what PyTorch or JAX has queued. Default: true.
        annotate_spans: Put the energy of their time window on the application's own spans; windows overlap,
            so never add them up. Default: false.
        progress_bars: Show the energy and the emissions of the process since a progress bar began in the bars of
            tqdm and rich, so in Lightning's too. Default: false.
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
        announce: Say in one line what is measured and where it goes, and in one line at the end what it was; where
            nothing else gets the figures of a program, a file in the folder `carbon-otel` does. Default: true.
        embodied_kg: Kilograms of CO2 equivalent of making the whole host with its GPUs. Default: from a table,
            by the GPUs, the hardware threads and the memory.
        lifetime_years: Years in use over which the embodied carbon of the hardware is spread. Default: 4.
        market_intensity: Grams of CO2 equivalent per kilowatt-hour of your contract, your supplier or the
            residual mix: market-based emissions are then shown beside the others, never instead. Default: none.
        market_source: Where `market_intensity` comes from, such as `supplier's disclosure 2025`. Default:
            `given`.
        water: Show the litres of water that the electricity and the site consume. Default: false.
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
            _warnings.warn(f"{former} is now called {former}_s", DeprecationWarning, stacklevel=3)
    if config.disabled():
        return
    if not _threads_may_run():
        return
    from carbon_otel.session.session import Session
    from carbon_otel.session.waiting import Waiting

    try:
        settings = config.resolve(arguments)
    except OSError as fault:  # the package's own tables, in a test of the application with a fake file system
        _log_fault("reading the settings", fault)
        return
    for wrong, meant in config.misspelt().items():
        _log_once("%s is no setting: did you mean %s?", wrong, meant, about=wrong)
    options = _runtime.Options(settings, tracer_provider, meter_provider, config.named(arguments))
    if _runtime.being_started():
        _contain("instrumenting", None, _runtime.start_at_first_stage, options, Waiting)
    else:
        _contain("instrumenting", None, _runtime.start, options, Session)
    watch = _sys.modules.get("carbon_otel.foresight.watch")
    if watch is not None:
        _contain("attaching a forecast", None, watch.begin)
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


def forecast(
    source: Any = None,
    X: Any = None,  # noqa: N803 - as scikit-learn names it
    y: Any = None,
    *,
    hardware: str = "auto",
    zone: str | None = None,
    region: str | None = None,
    intensity: float | None = None,
    pue: float | None = None,
    inference: bool = False,
    history: bool = True,
    remember: bool = True,
    budget_s: float | None = None,
    **wanted: Any,
) -> Forecast:
    """Forecast energy and carbon before the run.

        f = carbon_otel.forecast("30B", tokens="600B", hardware="A100-80GB", gpus=256)
        f = carbon_otel.forecast(torch_module, tokens=2e9)
        f = carbon_otel.forecast(RandomForestClassifier(500), X, y)
        print(f.energy_kwh.p50, f.emissions_kg.p90, f.assumptions)

    An estimator is forecast from fits of clones of it to parts of the data. The forecast is remembered: it
    belongs to the MLflow run that is open here, else to the run or the training that opens next, which at its end
    has it beside what was measured, with `carbon/forecast/delta` (predicted / measured - 1). The finished runs of
    the same experiment with forecasts of the same kind on the same hardware correct it.

    Args:
        source: a model: number of parameters (`30e9`, `"30B"`), `config.json`, configuration of Transformers,
            torch module; or an estimator of scikit-learn, XGBoost, LightGBM or CatBoost, with its data.
        X: the data of the estimator.
        y: its target.
        hardware: name in the catalogue of accelerators, such as `H100`; `auto` is the GPU of this host.
        zone: country of the grid. Default for an estimator: that of `instrument()`.
        region: cloud region, such as `gcp:europe-north1`.
        intensity: grams of CO2 equivalent per kilowatt-hour, instead of zone or region.
        pue: power usage effectiveness of the site.
        inference: forecast serving the model instead of training it.
        history: correct the forecast by your finished runs in MLflow, if the program has imported it.
        remember: hold the forecast against the run.
        budget_s: seconds for the small fits of an estimator. Default: 2.
        **wanted: fields of `carbon_otel.forecast.records.TrainingRequest` (`tokens`, `gpus`, `days`, ...) or
            `InferenceRequest`.

    Raises:
        ValueError: for unknown hardware, place or setting; the message says what to write instead.
    """
    from carbon_otel.foresight.ask import ask

    return ask(
        source,
        X,
        y,
        hardware=hardware,
        place_given={"zone": zone, "region": region, "intensity_g_per_kwh": intensity, "pue": pue},
        inference=inference,
        history=history,
        remember=remember,
        budget_s=budget_s,
        wanted=wanted,
    )


def progress(
    iterable: Iterable[_T] | None = None,
    total: float | None = None,
    *,
    budget_kwh: float | None = None,
    budget_kg: float | None = None,
    on_budget: Callable[[Outlook], object] | None = None,
) -> Progress[_T]:
    """Forecast a loop from its own pace: after 5 % of its steps, what all of them use, and when they are done.

        for epoch in carbon_otel.progress(range(100), budget_kwh=2):
            train(epoch)

        with carbon_otel.progress(total=1000) as loop:
            loop.update()  # after each step

    The forecast is logged (logger `carbon_otel`, level INFO): `4.1 kWh in all, 88 % left, done at 17:20`. It goes
    to the span of the stage around the loop and to its MLflow run, as `carbon/reforecast/...`, and is `outlook` of
    the result.

    Args:
        iterable: what the loop goes over; each item is a step.
        total: number of steps; by default the length of the iterable.
        budget_kwh: warn once when the whole loop is expected to use more.
        budget_kg: the same, in kilograms of CO2 equivalent.
        on_budget: called once, instead of the warning, with the outlook; an exception of it is logged. Nothing is
            ever stopped: set a flag of yours there, and leave the loop.

    Raises:
        ValueError: without a total, or for one or a budget that is not above 0.
    """
    from carbon_otel.foresight.progress import Progress

    return Progress(iterable, total, budget_kwh=budget_kwh, budget_kg=budget_kg, on_budget=on_budget)


def load_ipython_extension(shell: Any) -> None:
    """Add `%carbon` and `%%carbon` to IPython and notebooks: `%load_ext carbon_otel` calls this."""
    from carbon_otel.notebook import magics

    magics.load(shell, instrument)


def unload_ipython_extension(shell: Any) -> None:
    """Remove them: `%unload_ext carbon_otel` calls this."""
    from carbon_otel.notebook import magics

    magics.unload(shell)


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
