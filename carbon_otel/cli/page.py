"""A report as one HTML page that needs nothing else: bars drawn as SVG, no script, no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Final

from carbon_otel.mlflow.report import Report

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:56rem;padding:0 1rem;
color:#1b1f24;background:#fff}
h1{font-size:1.4rem;margin-bottom:.2rem}h2{font-size:1rem;margin:1.8rem 0 .4rem}
.figures{display:flex;gap:2.5rem;flex-wrap:wrap;margin:1rem 0}.figures b{display:block;font-size:1.5rem}
.figures small,p{color:#57606a}table{border-collapse:collapse;width:100%}
td,th{padding:.25rem .6rem;border-bottom:1px solid #d8dee4;text-align:left}td.n,th.n{text-align:right}
svg text{font:13px system-ui,sans-serif;fill:#1b1f24}
"""
_LABEL, _BAR, _ROW = 190, 420, 26


def page(report: Report) -> str:
    """The whole page as text."""
    total = report.total
    open_end = bool(report.lower_bounds)
    figures = "".join(
        f"<div><b>{value}</b><small>{escape(note)}</small></div>"
        for value, note in (
            (f"{_n(total.energy_wh)} Wh", _band(total.low_wh, total.high_wh, open_end)),
            (f"{_n(total.emissions_g)} g CO2e", _band(total.low_g, total.high_g, open_end)),
            (f"{report.measured_fraction:.0%}", "measured by a sensor"),
            (str(len(report.entries)), "measured runs"),
        )
    )
    attempts = {f"{e.name} ({e.status.lower()})": (e.energy_wh, e.emissions_g) for e in report.entries}
    notes = [f"Priced anew: {report.repriced}."] if report.repriced else []
    notes += [
        f"Per 1,000 {unit} of inference: {_n(wh * 1000)} Wh, {_n(g * 1000)} g CO2e."
        for unit, (wh, g) in report.per_unit.items()
    ]
    if report.passed_training:
        notes.append(f"Inference has used more than all training since {report.passed_training}.")
    notes += [f"Lower bound: {line}." for line in report.lower_bounds]
    if report.unmeasured:
        notes.append(f"Not measured: {', '.join(report.unmeasured)}.")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(report.title)}</h1><div class=figures>{figures}</div>"
        f"{''.join(f'<p>{escape(note)}</p>' for note in notes)}"
        f"<h2>By stage</h2>{_bars(report.by_stage)}"
        f"<h2>By run</h2>{_bars(attempts)}"
        f"<h2>By month</h2>{_bars(report.by_month)}"
        f"<h2>Where the figures come from</h2>{_sources(report)}</html>"
    )


def _bars(sums: Mapping[str, tuple[float, float]]) -> str:
    most = max((wh for wh, _ in sums.values()), default=0.0) or 1.0
    rows = []
    for i, (name, (wh, grams)) in enumerate(sums.items()):
        y, width = i * _ROW, _BAR * wh / most
        shown = name if len(name) < 28 else f"{name[:26]}…"
        rows.append(
            f"<text x=0 y={y + 17}><title>{escape(name)}</title>{escape(shown)}</text>"
            f"<rect x={_LABEL} y={y + 4} width={width:.1f} height={_ROW - 8} rx=3 fill='#2f7d5b'/>"
            f"<text x={_LABEL + width + 6:.1f} y={y + 17}>{_n(wh)} Wh, {_n(grams)} g</text>"
        )
    height = len(sums) * _ROW
    return f"<svg viewBox='0 0 {_LABEL + _BAR + 190} {height}' role=img>{''.join(rows)}</svg>"


def _sources(report: Report) -> str:
    columns = ("method", "zone", "intensity_source", "intensity_year", "pue", "hardware", "version")
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in columns)
    rows = dict.fromkeys(
        tuple(entry.tags.get(f"carbon.{name}", "") for name in columns) for entry in report.entries
    )
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _band(low: float, high: float, open_end: bool) -> str:
    return (
        f"{_n(low)} to more: some entries are lower bounds" if open_end else f"{_n(low)} to {_n(high)} (k=2)"
    )


def _n(value: float) -> str:
    return f"{value:.4g}"
