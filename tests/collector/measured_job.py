"""A job on a machine of its own, which draws 40 W while it works. Arguments: a folder, seconds, whose providers.

With `application`, the meter provider is the application's, with what SDK 1.39 makes of the variables. Prints its
own footprint as JSON once all is measured.
"""

import json
import sys
import time
from pathlib import Path

from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector

import carbon_otel
from tests.fakes.drawing import Drawing
from tests.fakes.powercap import server

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
if sys.argv[3:] == ["application"]:
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    resource = OTELResourceDetector().detect()
    metrics.set_meter_provider(MeterProvider([reader], resource=resource))
tree = server(folder)
carbon_otel.instrument(zone="FR", powercap_root=tree.root)
with Drawing(tree, zones=1, watts=40):
    with carbon_otel.stage("data_processing", "load"):
        time.sleep(seconds / 4)
    with carbon_otel.stage("training", "fit") as fitting:
        time.sleep(seconds / 2)
    with carbon_otel.stage("inference", "score") as scoring:
        time.sleep(seconds / 4)
        scoring.units(tokens=500)
whole = carbon_otel.footprint()
carbon_otel.uninstrument()
print(
    json.dumps(
        {
            "joules": whole.energy_j,
            "grams": whole.emissions_g,
            "g_per_kwh": whole.intensity.g_per_kwh,
            "scored_j": scoring.footprint.energy_j,
            "fitted_j": fitting.footprint.energy_j,
            "gap_s": whole.gap_s,
        }
    )
)
