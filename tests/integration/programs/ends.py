"""A measured program that ends, or whose children end, in the way that its first argument names.

Further arguments: the tracking URI (empty: without MLflow), the powercap root, the state folder. It prints as
JSON the run, and the counter before and after the start of the measurement and after its work. An end that comes
from outside is waited for.
"""

import asyncio
import concurrent.futures
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

import carbon_otel
from carbon_otel import termination

end, uri, root, state = sys.argv[1:]
STAGE_S = 0.6
# A busy machine must not decide what arrives; `test_termination.py` tests the bound.
termination.BOUND_S = 300.0


def joules() -> float:
    return int((Path(root) / "intel-rapl:0" / "energy_uj").read_text()) / 1e6


def own_providers() -> None:
    """The application's own, with the processors that OpenTelemetry recommends and their standard intervals."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracer = TracerProvider()
    tracer.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(tracer)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())]))


if "own providers" in end:
    own_providers()
around = [joules()]
carbon_otel.instrument(
    zone="FR", powercap_root=root, interval_s=0.25, checkpoint_interval_s=0.5, state_dir=state
)
around.append(joules())


def work(number: int = 0) -> int:
    with carbon_otel.stage("training", f"fit {number}"):
        time.sleep(STAGE_S)
    return number


def tell() -> None:
    print(json.dumps({"run": run_id, "around": around, "worked": joules()}), flush=True)


def wait() -> None:
    threading.Event().wait()


def wait_in_one_call() -> None:
    """As in a library in C, during whose calls Python calls no handler."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def in_a_stage() -> None:
    with carbon_otel.stage("training", "fit 0"):
        time.sleep(STAGE_S)
        tell()
        wait()


async def in_a_task() -> None:
    with carbon_otel.stage("training", "fit 0"):
        await asyncio.sleep(STAGE_S)
        tell()
        await asyncio.sleep(3600)


def in_a_fork(finish) -> None:
    """Ends with the status of the child."""
    child = os.fork()
    if child == 0:
        work()
        finish()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    tell()
    sys.exit(status if status >= 0 else 100 - status)


def terminated() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    wait()


def once_told() -> None:
    tell()
    sys.stdin.readline()
    os._exit(0)


def pool(method: str, last: str) -> None:
    with multiprocessing.get_context(method).Pool(2) as workers:
        assert workers.map(work, range(4), 1) == [0, 1, 2, 3]
        if last == "closes":
            workers.close()
            workers.join()
    tell()


def executor(method: str) -> None:
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context(method)) as workers:
        assert list(workers.map(work, range(2))) == [0, 1]
    tell()


def process(method: str) -> None:
    child = multiprocessing.get_context(method).Process(target=work)
    child.start()
    child.join()
    tell()


def main() -> None:
    kind, *how = end.split(", ")[0].split(" ")
    if kind in ("pool", "executor", "process"):
        globals()[kind](*how)
    elif kind == "fork":
        in_a_fork({"terminated": terminated, "exits": once_told}[how[0]])
    elif kind == "open":
        in_a_stage()
    elif kind == "asyncio":
        asyncio.run(in_a_task())
    else:
        if kind == "handler":
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(4))
        work()
        tell()
        if kind == "raises":
            raise RuntimeError("an error of the program")
        if kind == "exits":
            sys.exit(3)
        if kind == "leaves":
            sys.stdin.readline()
            os._exit(5)
        if kind == "calls":
            wait_in_one_call()
        if kind != "returns":
            wait()


if __name__ == "__main__":
    run_id = ""
    if uri:
        import mlflow

        mlflow.set_tracking_uri(uri)
        run_id = mlflow.start_run().info.run_id
    main()
