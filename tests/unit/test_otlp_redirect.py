"""Where an OTLP endpoint takes MLflow's own traces away from MLflow."""

from __future__ import annotations

import pytest

from carbon_otel.mlflow.otlp_redirect import warning

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4318"},
        {**ENDPOINT, "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT": "true"},
        {**ENDPOINT, "MLFLOW_ENABLE_OTLP_EXPORTER": "false"},
    ],
)
def test_nothing_to_say(environment):
    assert warning(environment) is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_it_names_the_variable_and_both_ways_out(name):
    said = warning({name: "http://user:secret@127.0.0.1:4318"})
    assert said.startswith(name) and "secret" not in said
    assert "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT=true" in said and "MLFLOW_ENABLE_OTLP_EXPORTER=false" in said
