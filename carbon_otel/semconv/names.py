"""Names and units of telemetry.

`hw.*` follows the OpenTelemetry semantic conventions 1.44 (hardware, development). There is no convention for
carbon yet. The names here correspond one to one to the terms of SCI, ISO/IEC 21031 (E, I, M, R), for which
open-telemetry/community#3539 proposes a convention. Units of metrics are UCUM and not part of the name; attributes
have no unit field, so their names contain the unit.
"""

from __future__ import annotations

from typing import Final

SCOPE: Final = "carbon_otel"
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# Metrics
HW_ENERGY: Final = "hw.energy"
HW_POWER: Final = "hw.power"
HW_HOST_ENERGY: Final = "hw.host.energy"
HW_HOST_POWER: Final = "hw.host.power"
STAGE_ENERGY: Final = "carbon_otel.stage.energy"
STAGE_EMISSIONS: Final = "carbon_otel.stage.emissions"
STAGE_DURATION: Final = "carbon_otel.stage.duration"
STAGE_UNITS: Final = "carbon_otel.stage.units"
EMBODIED: Final = "carbon_otel.embodied"
CPU_STEAL: Final = "carbon_otel.cpu.steal"
CARBON_INTENSITY: Final = "carbon_otel.carbon_intensity"
REMOTE_ENERGY: Final = "carbon_otel.remote.energy"
REMOTE_EMISSIONS: Final = "carbon_otel.remote.emissions"
REMOTE_REQUESTS: Final = "carbon_otel.remote.requests"

JOULE: Final = "J"
WATT: Final = "W"
SECOND: Final = "s"
RATIO: Final = "1"
UNIT_COUNT: Final = "{unit}"
REQUEST_COUNT: Final = "{request}"
# Of CO2e, which is in the description: the collector's translation to Prometheus drops a unit that has braces.
GRAM: Final = "g"
GRAM_PER_KWH: Final = "g/kW.h"

# Metric attributes
HW_ID: Final = "hw.id"
HW_TYPE: Final = "hw.type"
HW_NAME: Final = "hw.name"
HOST_NAME: Final = "host.name"
HOST_BOOT: Final = "carbon_otel.host.boot"
COMPONENT: Final = "carbon_otel.component"
ZONE: Final = "carbon_otel.zone"
UNIT: Final = "carbon_otel.unit"
REMOTE_PROVIDER: Final = "carbon_otel.remote.provider"
REMOTE_MODEL: Final = "carbon_otel.remote.model"
REMOTE_ESTIMATED: Final = "carbon_otel.remote.estimated"

# Resource attributes, beside zone, PUE and method
REGION: Final = "carbon_otel.region"
PUE_SOURCE: Final = "carbon_otel.pue_source"
INSTANCE: Final = "service.instance.id"
HOST_CPU_MODEL: Final = "host.cpu.model.name"
GPU_MODELS: Final = "carbon_otel.gpu.models"
JOB_ID: Final = "carbon_otel.job.id"
JOB_STEP: Final = "carbon_otel.job.step"
JOB_ARRAY: Final = "carbon_otel.job.array"
# Also on spans, since a process may learn its rank late
RANK: Final = "carbon_otel.rank"
LOCAL_RANK: Final = "carbon_otel.local_rank"
WORLD_SIZE: Final = "carbon_otel.world_size"

# Span attributes
STAGE_KIND: Final = "carbon_otel.stage.kind"
STAGE_NAME: Final = "carbon_otel.stage.name"
RUN_ID: Final = "carbon_otel.run.id"
ENERGY_TOTAL_J: Final = "carbon_otel.energy.total_j"
ENERGY_EXCLUSIVE_J: Final = "carbon_otel.energy.exclusive_j"
ENERGY_COMPONENT_J: Final = "carbon_otel.energy.{}_j"
ENERGY_LOW_J: Final = "carbon_otel.energy.low_j"
ENERGY_HIGH_J: Final = "carbon_otel.energy.high_j"
EMISSIONS_G: Final = "carbon_otel.emissions.g_co2e"
# In no other figure: of making the hardware (M of SCI), with its band; market-based; water.
EMBODIED_G: Final = "carbon_otel.embodied.g_co2e"
EMBODIED_LOW_G: Final = "carbon_otel.embodied.low_g_co2e"
EMBODIED_HIGH_G: Final = "carbon_otel.embodied.high_g_co2e"
MARKET_G: Final = "carbon_otel.market.g_co2e"
MARKET_G_PER_KWH: Final = "carbon_otel.market.g_per_kwh"
MARKET_SOURCE: Final = "carbon_otel.market.source"
WATER_L: Final = "carbon_otel.water.l"
WATER_LOW_L: Final = "carbon_otel.water.low_l"
WATER_HIGH_L: Final = "carbon_otel.water.high_l"
SCI_G_PER: Final = "carbon_otel.sci_g_per.{}"
INTENSITY_G_PER_KWH: Final = "carbon_otel.carbon_intensity.g_per_kwh"
INTENSITY_SOURCE: Final = "carbon_otel.carbon_intensity.source"
INTENSITY_SIGNAL: Final = "carbon_otel.carbon_intensity.signal"
INTENSITY_YEAR: Final = "carbon_otel.carbon_intensity.year"
PUE: Final = "carbon_otel.pue"
METHOD: Final = "carbon_otel.method"
MEASURED_FRACTION: Final = "carbon_otel.measured_fraction"
GAP_S: Final = "carbon_otel.gap_s"
FLAGS: Final = "carbon_otel.flags"
MISSING: Final = "carbon_otel.missing"
SHARE: Final = "carbon_otel.share.{}"
UNITS: Final = "carbon_otel.units.{}"
ENERGY_J_PER: Final = "carbon_otel.energy_j_per.{}"
EMISSIONS_G_PER: Final = "carbon_otel.emissions_g_per.{}"

# A forecast made before the stage, and one made from its own pace; `{}` is p10, p50 or p90.
FORECAST_J: Final = "carbon_otel.forecast.energy_j.{}"
FORECAST_G: Final = "carbon_otel.forecast.emissions_g.{}"
FORECAST_MEASURED_J: Final = "carbon_otel.forecast.measured_j"
FORECAST_DELTA: Final = "carbon_otel.forecast.delta"
FORECAST_TITLE: Final = "carbon_otel.forecast.title"
REFORECAST_J: Final = "carbon_otel.reforecast.energy_j.{}"
REFORECAST_G: Final = "carbon_otel.reforecast.emissions_g.{}"
REFORECAST_LEFT_S: Final = "carbon_otel.reforecast.left_s"
REFORECAST_DONE: Final = "carbon_otel.reforecast.done"
REFORECAST_MEASURED_J: Final = "carbon_otel.reforecast.measured_j"
REFORECAST_DELTA: Final = "carbon_otel.reforecast.delta"

# On the application's own spans; the energy of windows must not be summed over spans.
WINDOW_J: Final = "carbon_otel.window.energy_j"
WINDOW_ATTRIBUTED_J: Final = "carbon_otel.window.attributed_j"
WINDOW_J_PER_OUTPUT_TOKEN: Final = "carbon_otel.window.j_per_output_token"

# Estimates for remote models: on the span of the call, and as the sum of its own calls on the span of a stage.
# They are in no other figure.
REMOTE_ENERGY_J: Final = "carbon_otel.remote.energy_j"
REMOTE_LOW_J: Final = "carbon_otel.remote.low_j"
REMOTE_HIGH_J: Final = "carbon_otel.remote.high_j"
REMOTE_G: Final = "carbon_otel.remote.g_co2e"
REMOTE_LOW_G: Final = "carbon_otel.remote.low_g_co2e"
REMOTE_HIGH_G: Final = "carbon_otel.remote.high_g_co2e"
REMOTE_METHOD: Final = "carbon_otel.remote.method"
REMOTE_SOURCE: Final = "carbon_otel.remote.source"
REMOTE_CALLS: Final = "carbon_otel.remote.calls"
REMOTE_CALLS_UNKNOWN: Final = "carbon_otel.remote.calls_unknown"
