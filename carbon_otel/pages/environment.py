"""The templates. Every text in them is one line without secrets, and is escaped."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from carbon_otel import quantities
from carbon_otel._version import __version__
from carbon_otel.pages.glossary import GLOSSARY
from carbon_otel.text import hider, one_line
from carbon_otel.units import J_PER_WH

if TYPE_CHECKING:
    from jinja2 import Environment
    from jinja2.runtime import Context

_LONGEST: Final = 2000
_LONGEST_NAME: Final = 80
_LONGEST_VALUE: Final = 24


class Made(NamedTuple):
    """When (UTC) and by which command a page was made."""

    at: datetime
    command: str


class Figure(NamedTuple):
    """A quantity as text, apart from its band: `12.4 Wh`, `11.8 to 13.1`; no band is an empty text."""

    value: str
    band: str


def render(template: str, made: Made, **content: Any) -> str:
    """The page. `content` is what the template names; a name that is missing raises an error of Jinja2."""
    return (
        _environment()
        .get_template(template)
        .render(
            made=made,
            version=__version__,
            glossary=GLOSSARY,
            used=set(),
            inf=math.inf,
            hide=hider(),
            **content,
        )
    )


@functools.cache
def _environment() -> Environment:
    # It comes with MLflow, whose stores the pages are about.
    from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
    from markupsafe import Markup

    def short(longest: int) -> Callable[[Context, str], str]:
        # Hidden before it is cut: half of a password is no longer known as one.
        return pass_context(lambda context, text: cut(one_line(context["hide"](text)), longest))

    @pass_context
    def safe(context: Context, value: Any) -> Any:
        is_text = isinstance(value, str) and not isinstance(value, Markup)
        return cut(one_line(context["hide"](value)), _LONGEST) if is_text else value

    environment = Environment(
        loader=PackageLoader("carbon_otel.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=safe,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": short(_LONGEST_NAME),
        "value": short(_LONGEST_VALUE),
        "energy": energy,
        "emissions": emissions,
        "duration": quantities.duration,
        "percent": percent,
        "litres": lambda litres: "unknown" if math.isnan(litres) else f"{litres:.3g} L",
    }
    return environment


def cut(text: str, longest: int) -> str:
    """The begin of a long text, with its length."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"


def energy(wh: float, low_wh: float | None = None, high_wh: float | None = None) -> Figure:
    """Watt-hours as a figure."""
    low_j, high_j = (None if each is None else each * J_PER_WH for each in (low_wh, high_wh))
    return _figure(quantities.energy(wh * J_PER_WH, low_j, high_j))


def emissions(grams: float, low_g: float | None = None, high_g: float | None = None) -> Figure:
    """Grams as a figure."""
    return _figure(quantities.emissions(grams, low_g, high_g))


def percent(share: float) -> str:
    """A share as text: `12 %`, `0.4 %`."""
    if math.isnan(share):
        return "unknown"
    whole = 100 * share
    if 0 < whole < 0.05:
        return "under 0.1 %"
    return f"{whole:.0f} %" if whole == 0 or whole >= 9.95 else f"{whole:.1f} %"


def _figure(text: str) -> Figure:
    value, _, band = text.partition(" (")
    return Figure(value, band.rstrip(")"))
