"""A stage of 0.3 s; prints the time at its end."""

import time

import carbon_otel

carbon_otel.instrument(zone="FR", interval_s=0.1)
with carbon_otel.stage("training", "fit"):
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        sum(range(1000))
print(time.time(), flush=True)
