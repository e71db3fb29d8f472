"""Stages of every form, a fork and a flush, in whatever surroundings the arguments and the caller make."""

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


def main(loop=asyncio.run) -> None:
    carbon_otel.instrument(zone="FR", interval_s=0.05)
    with carbon_otel.stage("training", depth=3) as s:
        score()
        check(list(batches()) == [0, 1, 2])
        check(loop(answer()) == score())
        thread = threading.Thread(target=score)
        thread.start()
        thread.join()
        with contextlib.suppress(KeyError), carbon_otel.stage("evaluation", "fails"):
            raise KeyError
        s.units(samples=3)
    if "fork" in sys.argv:
        child = os.fork()
        if not child:
            score()
            flushed = carbon_otel.flush()
            os._exit(0 if flushed and carbon_otel.footprint().stages.keys() >= {"evaluation"} else 1)
        _, status = os.waitpid(child, 0)
        check(status == 0, status)
    check(carbon_otel.flush())
    check(s.footprint.energy_j > 0, s.footprint)
    check(s.footprint.units == {"samples": 3})
    stages = carbon_otel.footprint().stages
    check(stages.keys() >= {"training", "evaluation", "inference", "data_processing"}, stages)
    carbon_otel.uninstrument()
    with carbon_otel.stage("training") as later:
        pass
    check(later.footprint.method == "missing")
    print(s.footprint.method)


if __name__ == "__main__":
    main()
