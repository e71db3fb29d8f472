"""The part of an example's CPU time that is ours: `python -m tests.benchmarks.within service 60`.

The work of the example goes on, and py-spy looks 400 times a second at what its threads do. The part is that of
the looks at which our code runs, or what it calls; not the program's own call within a changed function. Our own
threads mostly wait, and count by their CPU time, before py-spy comes: its looks wake them. What our code costs by
what it leaves in the caches of the processor is not in it, but in `examples.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

RATE = 400
STUB = "<carbon_otel, skipped by warnings"
OURS = "carbon_otel/"
# What our threads run from their begin on.
THREADS = ("Sampler._run", "Worker._run", "_Watch._receive")


def work(name: str, seconds: int, folder: Path) -> None:
    """The example for some seconds, and on until a file `stop` comes; leaves what the seconds have used."""
    import carbon_otel
    from tests.benchmarks import examples
    from tests.benchmarks.counters import moving

    with moving(folder / "sys") as root, getattr(examples, name)() as once:
        once()
        carbon_otel.instrument(zone="FR", powercap_root=root, announce=False)
        once()
        cpu_s, ours_s, clock_s = time.process_time(), of_our_threads(), time.monotonic()
        while time.monotonic() < clock_s + seconds:
            once()
        used = time.process_time() - cpu_s, of_our_threads() - ours_s, time.monotonic() - clock_s
        (folder / "used").write_text(json.dumps(used))
        (folder / "ready").touch()
        while not (folder / "stop").exists():
            once()
        carbon_otel.uninstrument()


def of_our_threads() -> float:
    """CPU seconds."""
    files = [
        Path(f"/proc/self/task/{thread.native_id}/schedstat")
        for thread in threading.enumerate()
        if thread.name.startswith("carbon_otel")
    ]
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def place(stack: list[str]) -> str | None:
    """The frame of ours in which, or in whose call, a thread is; None if it is in the program, or is our own."""
    if any(frame.startswith(THREADS) for frame in stack):
        return None
    for at, frame in enumerate(reversed(stack)):
        if STUB in frame:
            return frame if at == 0 else None
        if OURS in frame:
            return frame
    return None


def main(name: str, seconds: int) -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        command = [sys.executable, "-m", "tests.benchmarks.within", name, str(seconds), made]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as program:
            while not (folder / "ready").exists():
                assert program.poll() is None
                time.sleep(0.05)
            spy = [Path(sys.executable).with_name("py-spy"), "record", "-p", str(program.pid)]
            how = ["-d", str(seconds), "-r", str(RATE), "-F", "-f", "raw", "-o", f"{made}/looks"]
            try:
                subprocess.run([*spy, *how], check=True, capture_output=True)
            finally:
                (folder / "stop").touch()
        used_s, threads_s, clock_s = json.loads((folder / "used").read_text())
        places: Counter[str] = Counter()
        for line in (folder / "looks").read_text().splitlines():
            stack, _, count = line.rpartition(" ")
            found = place(stack.split(";"))
            if found is not None:
                places[found] += int(count)
    # One look of each thread is a moment of the clock; of CPU time, the program uses so much in that.
    looks = RATE * seconds * used_s / clock_s
    ours = places.total()
    figures = {
        "cpu_per_second": used_s / clock_s,
        "in_calls": ours / looks,
        "in_calls_deviation": ours**0.5 / looks,
        "in_threads": threads_s / used_s,
    }
    print(json.dumps(figures))
    for frame, count in places.most_common(12):
        print(f"{count / looks:.3%} {frame}")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        work(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(sys.argv[1], int(sys.argv[2]))
