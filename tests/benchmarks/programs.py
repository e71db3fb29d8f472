"""Small programs run in new interpreters; each prints its figures last."""

from __future__ import annotations

import subprocess
import sys

_TIMED = "import time; t = time.perf_counter()\n{}\nprint(time.perf_counter() - t)"

IMPORTS = {
    "carbon_otel": "import opentelemetry.sdk.trace, opentelemetry.sdk.metrics\n"
    + _TIMED.format("import carbon_otel"),
    "codecarbon": _TIMED.format("import codecarbon"),
    "zeus": _TIMED.format("from zeus.monitor import ZeusMonitor"),
}

STARTS = {
    "carbon_otel": "import carbon_otel\n" + _TIMED.format("carbon_otel.instrument(zone='FR')"),
    "codecarbon": "from codecarbon import OfflineEmissionsTracker as T\n"
    + _TIMED.format("T(country_iso_code='FRA', save_to_file=False, log_level='error').start()"),
}

# CPU seconds per minute of an idle measured process, after the first second.
_IDLE = """
import os, time
{start}
time.sleep(1)
before = time.process_time()
time.sleep({seconds})
print((time.process_time() - before) * 60 / {seconds})
"""


def idle(start: str, seconds: float) -> str:
    return _IDLE.format(start=start, seconds=seconds)


SAMPLERS = {
    "carbon_otel": "import carbon_otel; carbon_otel.instrument(zone='FR', interval_s={interval})",
    "codecarbon": "from codecarbon import OfflineEmissionsTracker as T\n"
    "tracker = T(country_iso_code='FRA', save_to_file=False, log_level='error', measure_power_secs={interval})\n"
    "tracker.start()",
}

# Like a DataLoader or an OpenMP program: children with waiting threads.
CHILDREN = """
import subprocess, sys
child = "import sys, threading\\nwait = threading.Event().wait\\n" \
    "for _ in range(99): threading.Thread(target=wait, daemon=True).start()\\n" \
    "print(flush=True)\\nsys.stdin.read()"
children = [
    subprocess.Popen([sys.executable, "-S", "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    for _ in range(8)
]
for each in children: each.stdout.readline()
"""

# CPU milliseconds of an empty run in a sqlite store with its tables: of the thread that runs it, as the median of
# fifty; of the whole process, as their mean.
EMPTY_RUN = """
import statistics, time
{start}
import mlflow
mlflow.set_tracking_uri("sqlite:///{file}")
for _ in range(5):
    with mlflow.start_run(): pass
{flush}
times = []
whole = time.process_time()
for _ in range(50):
    begun = time.thread_time()
    with mlflow.start_run(): pass
    times.append(time.thread_time() - begun)
{flush}
whole = time.process_time() - whole
print(statistics.median(times) * 1e3, whole / 50 * 1e3)
"""

# Resident megabytes of a started tool over the SDK alone.
MEMORY = """
import opentelemetry.sdk.trace, opentelemetry.sdk.metrics, psutil
before = psutil.Process().memory_info().rss
{start}
import time; time.sleep(1)
print((psutil.Process().memory_info().rss - before) / 1e6)
"""

# Seconds from the end of the work to the end of the process.
EXIT = """
import os, time, carbon_otel
{prepare}
carbon_otel.instrument(zone='FR')
with carbon_otel.stage('training'):
    pass
import atexit
print(time.time(), flush=True)
"""


def numbers(program: str, env: dict[str, str] | None = None) -> list[float]:
    """The numbers in the last line that a program prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=env, check=True
    )
    return [float(each) for each in done.stdout.splitlines()[-1].split()]


def number(program: str, env: dict[str, str] | None = None) -> float:
    """The number that a program prints last."""
    return numbers(program, env)[-1]
