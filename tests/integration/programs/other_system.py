"""A measured program on a system that lacks parts of `os`: the names are removed before carbon_otel is imported.

The standard library and the dependencies are imported first, because they know their own system.
"""

import importlib
import io
import logging
import os
import pathlib
import signal
import sys
import tempfile
import time

DEPENDENCIES = (
    *("concurrent.futures", "ctypes.util", "multiprocessing.pool", "sqlite3", "subprocess", "urllib.request"),
    *("psutil", "typer.main", "rich.progress"),
    *("opentelemetry.sdk.metrics.export", "opentelemetry.sdk.trace.export"),
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)
MODULES = {"os": os, "time": time, "signal": signal}
UNIX = """
os.fork os.forkpty os.register_at_fork os.getuid os.geteuid os.getgid os.getegid os.getgroups os.getresuid os.uname
os.pread os.pwrite os.preadv os.pwritev os.sysconf os.sysconf_names os.confstr os.sched_getaffinity os.getloadavg
os.O_NOFOLLOW os.O_CLOEXEC os.O_NONBLOCK os.O_DIRECTORY os.O_PATH os.O_TMPFILE os.O_SYNC os.O_DSYNC
os.fchmod os.fchown os.chown os.lchown os.fchdir os.fdatasync os.posix_fallocate os.sync os.statvfs os.mkfifo
os.killpg os.setsid os.getpgid os.getsid os.nice os.wait os.waitid os.WNOHANG os.posix_spawn os.pidfd_open
os.memfd_create time.clock_gettime time.clock_gettime_ns time.clock_getres time.CLOCK_BOOTTIME time.CLOCK_MONOTONIC
time.CLOCK_REALTIME time.CLOCK_PROCESS_CPUTIME_ID time.CLOCK_THREAD_CPUTIME_ID time.pthread_getcpuclockid
time.tzset signal.SIGHUP signal.SIGKILL signal.SIGALRM signal.SIGCHLD signal.SIGUSR1 signal.SIGUSR2
signal.pthread_sigmask signal.setitimer signal.sigwait
"""
LINUX = """
os.sched_getaffinity os.pidfd_open os.memfd_create os.O_PATH os.O_TMPFILE os.posix_fallocate time.CLOCK_BOOTTIME
time.pthread_getcpuclockid
"""
UNIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "posix", "syslog")


def hide_the_kernels_files() -> None:
    """From carbon_otel, not from psutil, which reads another interface on other systems."""

    def hidden(original):
        def function(path, *args, **kwargs):
            if str(path).startswith(("/proc", "/sys")):
                frame = sys._getframe(1)
                while frame is not None and "psutil" not in frame.f_code.co_filename:
                    if f"{os.sep}carbon_otel{os.sep}" in frame.f_code.co_filename:
                        raise FileNotFoundError(2, "no such file", str(path))
                    frame = frame.f_back
            return original(path, *args, **kwargs)

        return function

    for module, name in ((os, "open"), (os, "stat"), (os, "listdir"), (os, "scandir"), (io, "open")):
        setattr(module, name, hidden(getattr(module, name)))


platform, files = sys.argv[1:]
for dependency in DEPENDENCIES:
    importlib.import_module(dependency)
for name in (LINUX if platform == "darwin" else UNIX).split():
    module, _, attribute = name.partition(".")
    if hasattr(MODULES[module], attribute):
        delattr(MODULES[module], attribute)
if platform != "darwin":
    for module in UNIX_MODULES:
        sys.modules[module] = None
sys.platform = platform
if files == "hidden":
    hide_the_kernels_files()

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
import carbon_otel  # noqa: E402
from carbon_otel import runtime  # noqa: E402
from carbon_otel.mlflow.delivery import spool  # noqa: E402

for module in ("cli", "entry_points.detector", "mlflow.delivery.former_outbox", "mlflow.delivery.worker"):
    importlib.import_module(f"carbon_otel.{module}")


@carbon_otel.stage("evaluation")
def score() -> int:
    return sum(range(100_000))


for _ in range(2):
    carbon_otel.instrument(zone="FR", interval_s=0.05)
    with carbon_otel.stage("training") as s:
        begun = time.process_time()
        while time.process_time() - begun < 0.3:
            score()
    runtime.active().inject({})
    batches = spool.Spool.create(pathlib.Path(tempfile.mkdtemp()))
    batches.close()
    print(
        carbon_otel.flush(),
        s.footprint.method,
        s.footprint.energy_j > 0 or s.footprint.as_dict(),
        *sorted(carbon_otel.footprint().stages),
    )
    carbon_otel.uninstrument()
