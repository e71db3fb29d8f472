"""A worker that is measured though its parent is not. Argument: its journal."""

import multiprocessing
import os
import sys

import carbon_otel


def train() -> None:
    os.environ["CARBON_OTEL_JOURNAL"] = sys.argv[1]
    carbon_otel.instrument(zone="FR")
    with carbon_otel.stage("training"):
        sum(range(100_000))


process = multiprocessing.get_context("fork").Process(target=train)
process.start()
process.join()
