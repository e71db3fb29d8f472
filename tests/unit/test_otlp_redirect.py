"""The warning that an OTLP endpoint redirects MLflow's own traces."""

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
def test_no_warning_if_traces_stay_with_mlflow_or_the_user_has_chosen(environment):
    assert warning(environment) is None


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_the_warning_names_the_variable_and_both_settings(name):
    message = warning({name: "http://user:secret@127.0.0.1:4318"})
    assert message.startswith(name) and "secret" not in message
    assert (
        "MLFLOW_TRACE_ENABLE_OTLP_DUAL_EXPORT=true" in message
        and "MLFLOW_ENABLE_OTLP_EXPORTER=false" in message
    )
