"""CodeCarbon's trackers and decorator, with the figures of carbon_otel.

    from carbon_otel.compat.codecarbon import EmissionsTracker  # was: from codecarbon import EmissionsTracker

The package codecarbon is not needed, and nothing is asked on the internet. The page of this room says what each
argument does here, and what differs.
"""

from carbon_otel.compat.codecarbon.arguments import OutputMethod
from carbon_otel.compat.codecarbon.decorator import track_emissions
from carbon_otel.compat.codecarbon.tracker import EmissionsTracker, OfflineEmissionsTracker
from carbon_otel.compat.codecarbon_columns import EmissionsData

__all__ = [
    "EmissionsData",
    "EmissionsTracker",
    "OfflineEmissionsTracker",
    "OutputMethod",
    "track_emissions",
]
