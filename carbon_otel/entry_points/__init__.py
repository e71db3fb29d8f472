"""The objects that OpenTelemetry loads by entry point: the instrumentor and the resource detector."""
