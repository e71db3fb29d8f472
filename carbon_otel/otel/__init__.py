"""Stages as OpenTelemetry spans; devices and stages as metrics."""
