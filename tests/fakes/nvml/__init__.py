"""GPUs for the unmodified nvidia-ml-py: a stub of libnvidia-ml.so.1, compiled from the C file beside this one.

A process that is started with `Gpus.environment()` sees the GPUs, because the loader then already holds a library
of that name. Their state is in a file that both processes map, so a test can change it while the other process
measures.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from tests.environments import without_settings

NOT_SUPPORTED, GPU_IS_LOST, DRIVER_NOT_LOADED, NO_PERMISSION = 3, 15, 9, 4
UNINITIALIZED, INVALID_ARGUMENT, NOT_FOUND, UNKNOWN = 1, 2, 6, 999
_MOST_GPUS, _MOST_INSTANCES, _MOST_SAMPLES = 8, 7, 8
_SOURCE = Path(__file__).with_name("libnvidia_ml_stub.c")
_REPOSITORY = Path(__file__).parents[3]


class Sample(ctypes.Structure):
    _fields_ = (("stamp_us", ctypes.c_uint64), ("pid", ctypes.c_uint32), ("busy", ctypes.c_uint32))


class Partition(ctypes.Structure):
    """A MIG instance: GPU instance `number + 1`, compute instance 0; not there if `slices` is 0."""

    _fields_ = (("uuid", ctypes.c_char * 96), ("slices", ctypes.c_uint32))


class Gpu(ctypes.Structure):
    """One GPU, as it lies in the mapped file. `run` starts its counter; without it the counter stands still."""

    energy_mj: int
    power_mw: int
    since_ns: int

    _fields_ = (
        ("_uuid", ctypes.c_char * 96),
        ("_name", ctypes.c_char * 96),
        ("energy_mj", ctypes.c_uint64),
        ("since_ns", ctypes.c_uint64),
        ("power_mw", ctypes.c_uint32),
        ("limit_mw", ctypes.c_uint32),
        ("period_ms", ctypes.c_uint32),
        ("energy_error", ctypes.c_uint32),
        ("power_error", ctypes.c_uint32),
        ("limit_error", ctypes.c_uint32),
        ("energy_reads", ctypes.c_uint64),
        ("instant_mw", ctypes.c_uint32),
        ("instant_scopes", ctypes.c_uint32),
        ("average_mw", ctypes.c_uint32),
        ("average_scopes", ctypes.c_uint32),
        ("field_type", ctypes.c_uint32),
        ("sample_count", ctypes.c_uint32),
        ("samples_error", ctypes.c_uint32),
        ("mig_slices", ctypes.c_uint32),
        ("samples", Sample * _MOST_SAMPLES),
        ("_instances", Partition * _MOST_INSTANCES),
    )

    @property
    def uuid(self) -> str:
        return str(self._uuid.decode())

    def partition(self, *slices: int, of: int = 7) -> list[str]:
        """Turn MIG on, with one instance for each number of compute slices; returns their UUIDs."""
        self.mig_slices = of
        for number, count in enumerate(slices):
            instance = self._instances[number]
            instance.uuid = f"MIG-{number}bbbbbbb-{self._uuid[4:12].decode()}-5000-8000-000000000000".encode()
            instance.slices = count
        return [instance.uuid.decode() for instance in self._instances[: len(slices)]]

    def runs(self, *processes: tuple[int, int, int]) -> None:
        """Set samples of processes: (pid, microseconds, per cent of the multiprocessors), as in NVML."""
        self.sample_count = len(processes)
        for sample, process in zip(self.samples, processes, strict=False):
            sample.pid, sample.stamp_us, sample.busy = process

    def run(self, watts: float) -> None:
        """Draw this power from now on, by the monotonic clock."""
        now_ns = time.monotonic_ns()
        if self.since_ns:
            self.energy_mj += int(self.power_mw * (now_ns - self.since_ns) / 1e9)
        self.power_mw, self.since_ns = int(watts * 1000), now_ns


class _State(ctypes.Structure):
    _fields_ = (
        ("count", ctypes.c_uint32),
        ("init_error", ctypes.c_uint32),
        ("loads", ctypes.c_uint32),
        ("stale_uses", ctypes.c_uint32),
        ("inits", ctypes.c_uint32),
        ("unused", ctypes.c_uint32),
        ("gpus", Gpu * _MOST_GPUS),
    )


class Gpus:
    """The GPUs of a host, in a file below `folder`; `library` comes from `build`."""

    def __init__(self, folder: Path, library: Path, count: int = 1) -> None:
        self._library = library
        self._file = folder / "nvml-state"
        self._file.write_bytes(bytes(ctypes.sizeof(_State)))
        self._state = _map(self._file)
        self._state.count = count
        for number, gpu in enumerate(self._state.gpus):
            gpu._uuid = f"GPU-{number}aaaaaaa-0000-4000-8000-000000000000".encode()
            gpu._name = b"NVIDIA H100 80GB HBM3"
            gpu.energy_mj, gpu.power_mw, gpu.limit_mw, gpu.period_ms = 5_000_000, 100_000, 700_000, 100
            gpu.field_type = 1

    def __getitem__(self, number: int) -> Gpu:
        return cast("Gpu", self._state.gpus[number])

    def fail_to_start(self, code: int) -> None:
        self._state.init_error = code

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a process that sees these GPUs, without the settings of the caller."""
        return {
            **without_settings("CUDA_VISIBLE_DEVICES"),
            "LD_PRELOAD": str(self._library),
            "FAKE_NVML_STATE": str(self._file),
            **variables,
        }

    def ask(self, program: str, **variables: str) -> Any:
        """The JSON that a program prints, run by a new interpreter that sees these GPUs."""
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=self.environment(PYTHONPATH=str(_REPOSITORY), **variables),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def mine() -> ctypes.Array[Gpu]:
    """The GPUs with which this process was started."""
    return cast("ctypes.Array[Gpu]", driver().gpus)


def driver() -> _State:
    """The driver with which this process was started.

    Incrementing `loads` reloads it, `init_error` prevents its start, `stale_uses` counts handles used after a
    reload, `inits` counts the starts of NVML.
    """
    return _map(Path(os.environ["FAKE_NVML_STATE"]))


def _map(path: Path) -> _State:
    with path.open("r+b") as file:
        return _State.from_buffer(mmap.mmap(file.fileno(), 0))


def build(folder: Path) -> Path:
    """Compile the stub. Raises FileNotFoundError without gcc, CalledProcessError if it does not compile."""
    library = folder / "libnvidia-ml.so.1"
    flags = ("-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1")
    subprocess.run(["gcc", *flags, "-o", str(library), str(_SOURCE)], check=True)
    return library
