"""GPUs for the unmodified amdsmi: a stub of libamd_smi.so, compiled from the C file beside this one.

amdsmi searches for the library below `ROCM_PATH`, and binds every function at its import. `build` generates the
functions that the stub does not implement, from the list in the package.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.environments import without_settings

NOT_SUPPORTED = 2
_SOURCE = Path(__file__).with_name("libamd_smi_stub.c")
_REPOSITORY = Path(__file__).parents[3]
_BOUND = re.compile(r"_libraries\['libamd_smi\.so'\]\.(\w+)\s*$", re.MULTILINE)


class Gpu(ctypes.Structure):
    """One GPU, with the layout of the memory of the library."""

    _fields_ = (
        ("name", ctypes.c_char * 64),
        ("uuid", ctypes.c_char * 64),
        ("units", ctypes.c_uint64),
        ("resolution_uj", ctypes.c_float),
        ("hip", ctypes.c_uint32),
        ("counter_w", ctypes.c_double),
        ("power_w", ctypes.c_uint32),
        ("energy_error", ctypes.c_uint32),
        ("power_error", ctypes.c_uint32),
        ("detail_error", ctypes.c_uint32),
        ("cap_uw", ctypes.c_uint64),
        ("since_ns", ctypes.c_uint64),
    )


def host(*names: str) -> ctypes.Array[Gpu]:
    """The GPUs of this process; each counts, and reports 500 W."""
    library = ctypes.CDLL(f"{os.environ['ROCM_PATH']}/lib/libamd_smi.so")
    ctypes.c_uint32.in_dll(library, "stub_count").value = len(names)
    gpus = (Gpu * 8).in_dll(library, "stub_gpus")
    for number, (gpu, name) in enumerate(zip(gpus, names, strict=False)):
        gpu.name, gpu.uuid = name.encode(), f"{number}6ff74a0-0000-1000-806b-c1d71caf5a2{number}".encode()
        gpu.units, gpu.resolution_uj, gpu.hip = 1_000_000, 15.259, number
        gpu.counter_w, gpu.power_w, gpu.cap_uw = 500.0, 500, 750_000_000
    return gpus


def fail_to_start(code: int) -> None:
    library = ctypes.CDLL(f"{os.environ['ROCM_PATH']}/lib/libamd_smi.so")
    ctypes.c_uint32.in_dll(library, "stub_init_error").value = code


def build(folder: Path) -> Path:
    """Compile the stub below `folder`, which becomes a ROCM_PATH. Raises FileNotFoundError without gcc."""
    spec = importlib.util.find_spec("amdsmi")
    assert spec is not None and spec.submodule_search_locations, "amdsmi is in the extra `test`"
    wrapper = Path(spec.submodule_search_locations[0], "amdsmi_wrapper.py").read_text()
    answered = set(re.findall(r"^int (amdsmi_\w+)\(", _SOURCE.read_text(), re.MULTILINE))
    unanswered = sorted(set(_BOUND.findall(wrapper)) - answered)
    assert len(unanswered) > 100
    other = folder / "unanswered.c"
    other.write_text("".join(f"int {name}(void) {{ return {NOT_SUPPORTED}; }}\n" for name in unanswered))
    (folder / "lib").mkdir()
    flags = ("-Wall", "-Werror", "-O1", "-shared", "-fPIC")
    library = folder / "lib" / "libamd_smi.so"
    subprocess.run(["gcc", *flags, "-o", str(library), str(_SOURCE), str(other)], check=True)
    return folder


def ask(rocm: Path, program: str, **variables: str) -> Any:
    """The JSON in the last line that a program prints, run by a new interpreter with this ROCm."""
    environment = without_settings("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
    environment |= {"ROCM_PATH": str(rocm), "ROCM_HOME": str(rocm), "PYTHONPATH": str(_REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
