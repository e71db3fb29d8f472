"""Forks in a stage repeatedly while the sampler ticks; each child uses the stage in a different way.

Prints the faults in the children, if any; then the numbers of stages left open and of spans, by name.
"""

import collections
import os
import time

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import carbon_otel
from carbon_otel import runtime

ROUNDS = 40

spans = InMemorySpanExporter()
provider = TracerProvider(shutdown_on_exit=False)
provider.add_span_processor(SimpleSpanProcessor(spans))
carbon_otel.instrument(zone="FR", interval_s=0.01, tracer_provider=provider)


def nothing():
    pass


def measures():
    with carbon_otel.stage("inference") as s:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            sum(range(1000))
    assert s.footprint.method == "modelled.utilisation", s.footprint
    assert [span.name for span in spans.get_finished_spans()] == ["inference"]
    assert set(carbon_otel.footprint().stages) <= {"inference", "unattributed"}
    assert carbon_otel.footprint().duration_s < 5


def leaves_the_process():
    os._exit(0)


def raises():
    raise LookupError


def ends_the_session():
    carbon_otel.uninstrument()


def begins_one_of_its_own():
    carbon_otel.instrument(zone="DE", interval_s=0.02, tracer_provider=provider)
    measures()


CHILDREN = (nothing, measures, leaves_the_process, raises, ends_the_session, begins_one_of_its_own)

for number in range(ROUNDS):
    child = CHILDREN[number % len(CHILDREN)]
    try:
        with carbon_otel.stage("training"):
            pid = os.fork()
            if pid == 0:
                spans.clear()
                child()
    except LookupError:
        assert pid == 0 and child is raises
    except BaseException as error:
        print(child.__name__, repr(error), flush=True)
        os._exit(1)
    if pid == 0:
        # The child has left the block of the parent's stage, and must not end that stage.
        if "training" in [span.name for span in spans.get_finished_spans()]:
            print(child.__name__, "ended the parent's stage", flush=True)
        if trace.get_current_span().get_span_context().is_valid:
            print(child.__name__, "is still in the parent's span", flush=True)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, (number, child, status)

print(
    len(runtime.active().engine._open), dict(collections.Counter(s.name for s in spans.get_finished_spans()))
)
