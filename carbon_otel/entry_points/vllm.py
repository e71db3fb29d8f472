"""carbon_otel as a general plugin of vLLM, which calls `begin` in each of its processes.

    CARBON_OTEL_VLLM_PROCESSES=true vllm serve some/model

measures the engine of a server, which no program of yours starts. Without the variable the plugin does nothing:
the process that calls `instrument()` is charged for the processes that it starts, engines among them.
"""

from __future__ import annotations

import carbon_otel
from carbon_otel import config, runtime
from carbon_otel.guard import contain


def begin() -> None:
    """Measure this process, if the setting `vllm_processes` asks for it. Raises nothing into vLLM."""
    contain("measuring a process of vLLM", None, _begin)


def _begin() -> None:
    if config.disabled() or not config.resolve({}).vllm_processes:
        return
    if runtime.active() is None:  # a forked process goes on with the settings of its parent
        carbon_otel.instrument()
