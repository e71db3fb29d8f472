"""`python -m carbon_otel.forecast.fit`: write the constants that the tables give into `data/fitted.json`."""

from __future__ import annotations

import json
from pathlib import Path

from carbon_otel.forecast.fit.constants import compute
from carbon_otel.private_files import replace_file

if __name__ == "__main__":
    replace_file(Path(__file__).parents[1] / "data" / "fitted.json", json.dumps(compute(), indent=1) + "\n")
