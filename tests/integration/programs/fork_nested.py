"""A process forked in a stage starts another; prints the output of the second and the status of the first."""

import multiprocessing

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import carbon_otel

fork = multiprocessing.get_context("fork")


def inner() -> None:
    print("the inner one", flush=True)


def outer() -> None:
    process = fork.Process(target=inner)
    process.start()
    process.join()


trace.set_tracer_provider(TracerProvider())
carbon_otel.instrument(zone="FR")
with carbon_otel.stage("training"):
    process = fork.Process(target=outer)
    process.start()
    process.join(20)
    ended = process.exitcode
    process.kill()
print(ended)
