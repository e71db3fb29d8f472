from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

import carbon_otel

settings.register_profile("dev", max_examples=60, deadline=None)
settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# MLflow's own habits, not under test: usage reports, and a line to stdout at each run's end.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "1")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch):
    """No test sees the caller's settings, and none leaves a session behind."""
    for name in [n for n in os.environ if n.startswith(("CARBON_OTEL_", "OTEL_"))]:
        monkeypatch.delenv(name)
    yield
    carbon_otel.uninstrument()
