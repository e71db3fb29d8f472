"""The names that carbon_otel gives to telemetry: metrics, units and attributes."""
