"""Stages of every form, a fork and a flush: what they do in the surroundings in which this program is run."""

import asyncio
import contextlib
import os
import sys
import threading

import carbon_otel


def check(holds: object, what: object = None) -> None:
    """An `assert` that `python -O` keeps."""
    if not holds:
        raise AssertionError(what)


@carbon_otel.stage("evaluation")
def score() -> int:
    return sum(range(200_000))


@carbon_otel.stage("inference")
async def answer() -> int:
    await asyncio.sleep(0)
    return score()


@carbon_otel.stage("data_processing")
def batches():
    yield from range(3)


def fork() -> None:
    child = os.fork()
    if not child:
        score()
        flushed = carbon_otel.flush()
        os._exit(0 if flushed and "evaluation" in carbon_otel.footprint().stages else 1)
    check(os.waitpid(child, 0)[1] == 0)


def main(run=asyncio.run, forks: bool = True) -> str:
    carbon_otel.instrument(zone="FR", interval_s=0.05)
    with carbon_otel.stage("training", depth=3) as s:
        score()
        check(list(batches()) == [0, 1, 2])
        check(run(answer()) == score())
        thread = threading.Thread(target=score)
        thread.start()
        thread.join()
        with contextlib.suppress(KeyError), carbon_otel.stage("evaluation", "fails"):
            raise KeyError
        s.units(samples=3)
    if forks:
        fork()
    check(carbon_otel.flush())
    check(s.footprint.energy_j > 0, s.footprint)
    check(s.footprint.duration_s > 0, s.footprint)
    check(s.footprint.units == {"samples": 3})
    stages = carbon_otel.footprint().stages
    check(stages.keys() >= {"training", "evaluation", "inference", "data_processing"}, stages)
    carbon_otel.uninstrument()
    with carbon_otel.stage("training") as later:
        pass
    check(later.footprint.method == "missing")
    return s.footprint.method


if __name__ == "__main__":
    print(main(forks="fork" in sys.argv))
