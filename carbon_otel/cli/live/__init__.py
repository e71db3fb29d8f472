"""The live view of measured processes: `carbon-otel top` and `carbon-otel run --live`."""
