"""The option `--filing` of `carbon-otel forecast` and `carbon-otel report`."""

from __future__ import annotations

from enum import Enum

from carbon_otel.cli.output import say, write_json
from carbon_otel.forecast import filing
from carbon_otel.forecast.records import Forecast
from carbon_otel.lifecycle.report import Report


class Filing(str, Enum):
    """Texts for authorities and reports."""

    annex_xi = "annex-xi"
    sci = "sci"


def print_filing(source: Forecast | Report, kind: Filing, *, as_json: bool) -> None:
    """Print the text, or its figures as JSON. Raises ValueError where the source lacks what is to be filed."""
    made = filing.annex_xi(source) if kind is Filing.annex_xi else filing.sci_ai(source)
    if as_json:
        write_json(made.as_dict())
    else:
        say(*made.text.splitlines())
