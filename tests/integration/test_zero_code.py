"""Programs without a line of carbon_otel: `opentelemetry-instrument`, its variables, children of a stage."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import without_settings

INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))

TRAIN = """
import time
from sklearn.ensemble import RandomForestClassifier
X = [[i % 7, i % 3] for i in range(4000)]
RandomForestClassifier(n_estimators=10).fit(X, [i % 2 for i in range(4000)])
"""


def run(program, tree, *command, **variables):
    clean = without_settings("TRACEPARENT")
    done = subprocess.run(
        [
            *(command or (INSTRUMENT, sys.executable)),
            *([program] if isinstance(program, Path) else ["-c", program]),
        ],
        env={**clean, "CARBON_OTEL_ZONE": "FR", "CARBON_OTEL_POWERCAP_ROOT": str(tree.root), **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def export_to(sink):
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_LOGS_EXPORTER": "none",
    }


def metric_names(sink):
    return {metric.name for _, metric in sink.exports()}


def test_a_program_without_a_line_of_carbon_otel(tree, sink):
    run(TRAIN, tree, **export_to(sink))
    (training,) = [span for span in sink.spans() if span.name == "RandomForestClassifier.fit"]
    attributes = {a.key for a in training.attributes}
    assert {"carbon_otel.energy.total_j", "carbon_otel.emissions.g_co2e"} <= attributes
    assert {"hw.energy", "carbon_otel.stage.duration"} <= metric_names(sink)


@pytest.mark.parametrize(
    "variable",
    [{"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "carbon_otel"}, {"CARBON_OTEL_DISABLED": "true"}],
)
def test_it_can_be_turned_off(variable, tree, sink):
    run(TRAIN, tree, **export_to(sink), **variable)
    assert sink.spans() == [] and not metric_names(sink) & {"hw.energy", "carbon_otel.stage.energy"}


def test_with_the_sdk_disabled_it_measures_and_sends_nothing(tree, sink):
    program = "import carbon_otel\nwith carbon_otel.stage('training') as s: pass\nprint(s.footprint.method)"
    output = run(program, tree, **export_to(sink), OTEL_SDK_DISABLED="true").stdout
    assert sink.exports() == [] and sink.spans() == []
    assert output.strip() == "measured.counter"


def test_the_resource_has_the_hardware_the_grid_and_the_method(tree):
    program = (
        "from opentelemetry import trace\n"
        "a = trace.get_tracer_provider().resource.attributes\n"
        "print(a['carbon_otel.zone'], a['carbon_otel.method'], a['host.cpu.model.name'] != '')"
    )
    output = run(
        program, tree, OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="carbon_otel,otel", OTEL_TRACES_EXPORTER="none"
    )
    assert output.stdout.strip() == "FR measured.counter True"


def test_providers_of_carbon_otel_have_that_resource_too(tree, sink):
    program = "import carbon_otel\ncarbon_otel.instrument()\nwith carbon_otel.stage('training'): pass\n"
    run(program, tree, sys.executable, **export_to(sink))
    (attributes,) = [{a.key: a.value for a in r.resource.attributes} for r in sink.resource_spans()]
    assert attributes["carbon_otel.zone"].string_value == "FR"
    assert attributes["carbon_otel.method"].string_value == "measured.counter"


def test_a_declarative_configuration(tree, sink, tmp_path):
    file = tmp_path / "otel.yaml"
    file.write_text(f"""
file_format: "1.0"
tracer_provider:
  processors:
    - simple: {{exporter: {{otlp_http: {{endpoint: {sink.url}/v1/traces}}}}}}
meter_provider:
  readers:
    - periodic: {{interval: 100, exporter: {{otlp_http: {{endpoint: {sink.url}/v1/metrics}}}}}}
""")
    run(TRAIN, tree, OTEL_CONFIG_FILE=str(file))
    assert [span.name for span in sink.spans()] == ["RandomForestClassifier.fit"]
    assert "hw.energy" in metric_names(sink)


@pytest.mark.parametrize("protocol", [{}, {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}])
def test_grpc_to_the_port_of_http_is_named(protocol, tree):
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_LOGS_EXPORTER": "none",
    }
    text = run("pass", tree, **variables, **protocol).stderr
    assert ("OTLP goes by gRPC to port 4318" in text) is not bool(protocol)


@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
def test_an_exporter_to_the_terminal_needs_no_endpoint(signal, tree):
    program = (
        "import carbon_otel\ncarbon_otel.instrument()\nwith carbon_otel.stage('training', 'my forest'): pass"
    )
    exporter = {f"OTEL_{signal}_EXPORTER": "console"}
    output = run(program, tree, sys.executable, **exporter).stdout
    assert "my forest" in output
    assert ("hw.energy" in output) == (signal == "METRICS")


def test_an_exporter_that_is_not_known_is_named(tree):
    program = "import carbon_otel\ncarbon_otel.instrument()"
    text = run(program, tree, sys.executable, OTEL_METRICS_EXPORTER="prometheus").stderr
    assert "OTEL_METRICS_EXPORTER=prometheus: without `opentelemetry-instrument`" in text


def test_a_scrape_endpoint_of_the_process_itself(tree, free_port):
    port = str(free_port())
    program = """
import time, urllib.request, carbon_otel
with carbon_otel.stage("training"):
    time.sleep(1.2)
carbon_otel.flush()
text = urllib.request.urlopen("http://127.0.0.1:PORT/metrics").read().decode()
print(text)
""".replace("PORT", port)
    output = run(
        program,
        tree,
        OTEL_METRICS_EXPORTER="prometheus",
        OTEL_TRACES_EXPORTER="none",
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=port,
    ).stdout
    assert "hw_energy_joules_total{" in output and "carbon_otel_stage_duration_seconds_count{" in output


CHILD = "import carbon_otel; carbon_otel.instrument()\nwith carbon_otel.stage('evaluation', 'child'): pass\n"


def family(sink):
    spans = {span.name: span for span in sink.spans()}
    return spans["child"], spans["parent"]


def hangs_below(child, parent):
    return (child.trace_id, child.parent_span_id) == (parent.trace_id, parent.span_id)


def test_a_program_started_from_a_stage_continues_its_trace(tree, sink):
    program = f"""
import subprocess, sys, carbon_otel
carbon_otel.instrument()
with carbon_otel.stage("training", "parent"):
    subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
"""
    run(program, tree, sys.executable, **export_to(sink))
    assert hangs_below(*family(sink))


@pytest.mark.parametrize("instruments", ["in its target", "as its main module is imported"])
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_process_of_multiprocessing_continues_the_trace(method, instruments, tree, sink, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(f"""
import multiprocessing, os, carbon_otel
if {instruments == "as its main module is imported"}:
    carbon_otel.instrument()
def work():
    carbon_otel.instrument()
    with carbon_otel.stage("evaluation", "child"):
        pass
    carbon_otel.flush()
if __name__ == "__main__":
    carbon_otel.instrument()
    context = multiprocessing.get_context({method!r})
    if {method == "forkserver"}:
        first = context.Process(target=str)  # the server starts outside of any stage
        first.start()
        first.join()
    with carbon_otel.stage("training", "parent"):
        process = context.Process(target=work)
        process.start()
        assert "TRACEPARENT" not in os.environ and "_carbon_otel_variables" not in vars(process)
        process.join()
    assert process.exitcode == 0
""")
    run(program, tree, sys.executable, **export_to(sink))
    assert hangs_below(*family(sink))


def test_a_worker_of_joblib_continues_the_trace(tree, sink, tmp_path):
    pytest.importorskip("joblib")
    (tmp_path / "worker.py").write_text("""
import carbon_otel
def work():
    carbon_otel.instrument()
    with carbon_otel.stage("evaluation", "child"):
        pass
    carbon_otel.flush()
""")
    program = tmp_path / "program.py"
    program.write_text("""
import carbon_otel, joblib, worker
if __name__ == "__main__":
    carbon_otel.instrument()
    with carbon_otel.stage("training", "parent"):
        joblib.Parallel(2)([joblib.delayed(worker.work)()])
""")
    run(program, tree, sys.executable, **export_to(sink))
    assert hangs_below(*family(sink))


def test_the_environment_of_the_parent_stays_as_it_is_while_a_process_starts(tree, sink, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import multiprocessing, os, threading, carbon_otel
carbon_otel.instrument()
over = threading.Event()
seen = []
def look():
    while not over.is_set():
        seen.append("TRACEPARENT" in os.environ)
thread = threading.Thread(target=look)
thread.start()
context = multiprocessing.get_context("fork")
with carbon_otel.stage("training", "parent"):
    for _ in range(20):
        process = context.Process(target=str)
        process.start()
        process.join()
over.set()
thread.join()
print(any(seen), len(seen) > 0)
""")
    assert run(program, tree, sys.executable, **export_to(sink)).stdout == "False True\n"


def test_an_environment_that_the_caller_gives_to_a_program_stays_as_it_is(tree, sink):
    program = """
import os, subprocess, sys, carbon_otel
carbon_otel.instrument()
show = [sys.executable, "-c", "import os; print(os.environ.get('TRACEPARENT', '-')[:3], os.environ.get('A'))"]
def shown(**env):
    print(subprocess.run(show, capture_output=True, text=True, **env).stdout, end="")
os.environ["A"] = "1"
with carbon_otel.stage("training"):
    shown()
    shown(env=None)
    shown(env={})
    shown(env={"A": "2"})
    shown(env={"A": "3", "TRACEPARENT": "mine"})
    shown(env=carbon_otel.inject({"A": "4"}))
shown()
"""
    lines = run(program, tree, sys.executable, **export_to(sink)).stdout.splitlines()
    assert lines == ["00- 1", "00- 1", "- None", "- 2", "min 3", "00- 4", "- 1"]


def test_the_baggage_names_the_stage_and_is_for_children_only(tree, sink):
    program = """
import carbon_otel
from opentelemetry import baggage, propagate
carbon_otel.instrument()
with carbon_otel.stage("training", "a b,c"):
    headers = {}
    propagate.inject(headers)
    print(carbon_otel.inject()["BAGGAGE"], sorted(headers))
print(carbon_otel.inject())
"""
    output = run(program, tree, sys.executable, **export_to(sink)).stdout.splitlines()
    assert output == ["carbon_otel.stage.name=a+b%2Cc ['traceparent']", "{}"]
