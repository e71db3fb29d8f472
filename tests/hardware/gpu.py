"""The card that the tests of real hardware use, and how they report what they measured."""

from __future__ import annotations

import time

from carbon_otel.sensors.nvidia.library import Nvml


def joules(gpu):
    """What the counter shows."""
    return gpu.read() * gpu.joules_per_unit


def row(gpu, task, value):
    """Print a row of the table in README.md."""
    driver = Nvml().api.nvmlSystemGetDriverVersion()
    print(f"\n| {time.strftime('%Y-%m-%d')} | {gpu.device.name} | {driver} | {task} | {value} |")
