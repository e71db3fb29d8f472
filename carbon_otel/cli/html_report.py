"""A report as one HTML page that needs nothing else: bars drawn as SVG, no script, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from carbon_otel.lifecycle.report import TRAINING, Report
from carbon_otel.units import emissions, energy

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
            (energy(total.energy_wh), _band(energy(total.low_wh), energy(total.high_wh), open_end)),
            (
                f"{emissions(total.emissions_g)} CO2e",
                _band(emissions(total.low_g), emissions(total.high_g), open_end),
            ),
            (f"{report.measured_fraction:.0%}", "measured by a sensor"),
            (str(len(report.entries)), "entries"),
        )
    )
    attempts = [
        (
            f"{a.name} ({a.status.lower() if a.entries == 1 else f'{a.entries} windows'})",
            a.energy_wh,
            a.emissions_g,
        )
        for a in report.attempts
    ]
    notes = [f"Priced anew: {report.repriced}."] if report.repriced else []
    notes += [
        f"Per 1,000 {unit} of inference: {energy(wh * 1000)}, {emissions(g * 1000)} CO2e."
        for unit, (wh, g) in report.per_unit.items()
    ]
    if report.passed_training:
        notes.append(f"Inference has used more than all training since {report.passed_training}.")
    notes += [f"Lower bound: {line}." for line in report.lower_bounds]
    notes += [f"From another experiment: {line}." for line in report.prepared_elsewhere]
    if report.unmeasured:
        notes.append(f"Not measured: {', '.join(report.unmeasured)}.")
    notes += [f"Unreadable, not in the sums: {line}." for line in report.unreadable]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(report.title)}</h1><div class=figures>{figures}</div>"
        f"{''.join(f'<p>{escape(note)}</p>' for note in notes)}"
        f"<h2>By stage</h2>{_bars(_named(report.by_stage))}"
        f"<h2>By run</h2>{_bars(attempts)}"
        f"<h2>By month</h2>{_bars(_named(report.by_month))}"
        f"{_amortisation(report)}"
        f"<h2>Where the figures come from</h2>{_sources(report)}</html>"
    )


def _named(sums: Mapping[str, tuple[float, float]]) -> list[tuple[str, float, float]]:
    return [(name, wh, grams) for name, (wh, grams) in sums.items()]


def _bars(sums: Sequence[tuple[str, float, float]]) -> str:
    most = max((wh for _, wh, _ in sums), default=0.0) or 1.0
    rows = []
    for i, (name, wh, grams) in enumerate(sums):
        y, width = i * _ROW, _BAR * wh / most
        shown = name if len(name) < 25 else f"{name[:23]}…"
        rows.append(
            f"<text x=0 y={y + 17}><title>{escape(name)}</title>{escape(shown)}</text>"
            f"<rect x={_LABEL} y={y + 4} width={width:.1f} height={_ROW - 8} rx=3 fill='#2f7d5b'/>"
            f"<text x={_LABEL + width + 6:.1f} y={y + 17}>{energy(wh)}, {emissions(grams)}</text>"
        )
    height = len(sums) * _ROW
    return f"<svg viewBox='0 0 {_LABEL + _BAR + 190} {height}' role=img>{''.join(rows)}</svg>"


def _amortisation(report: Report) -> str:
    """Energy of inference until each day, against that of all training."""
    points = report.amortisation
    training_wh = report.by_stage.get(TRAINING, (0.0, 0.0))[0]
    if len(points) < 2 or training_wh <= 0:
        return ""
    most = max(points[-1][1], training_wh) * 1.08
    width, height = _LABEL + _BAR + 190, 220

    def y(wh: float) -> float:
        return height - 24 - (height - 40) * wh / most

    line = " ".join(
        f"{8 + (width - 180) * i / (len(points) - 1):.1f},{y(wh):.1f}" for i, (_, wh) in enumerate(points)
    )
    last = y(points[-1][1])
    # Two labels on one height cannot be read.
    apart = 16 if abs(last - y(training_wh)) < 16 else 0
    return (
        f"<h2>Inference against training</h2><svg viewBox='0 0 {width} {height}' role=img>"
        f"<line x1=8 x2={width - 172} y1={y(training_wh):.1f} y2={y(training_wh):.1f} stroke='#b35900' "
        f"stroke-dasharray='6 4'/><text x={width - 166} y={y(training_wh) + 4 + apart:.1f}>training "
        f"{energy(training_wh)}</text><polyline points='{line}' fill='none' stroke='#2f7d5b' stroke-width=2 />"
        f"<text x={width - 166} y={last + 4 - apart:.1f}>inference {energy(points[-1][1])}</text>"
        f"<text x=8 y={height - 4}>{escape(points[0][0])}</text>"
        f"<text x={width - 250} y={height - 4}>{escape(points[-1][0])}</text></svg>"
    )


def _sources(report: Report) -> str:
    columns = ("method", "zone", "intensity_source", "intensity_year", "pue", "hardware", "version")
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in columns)
    rows = dict.fromkeys(
        tuple(entry.tags.get(f"carbon.{name}", "") for name in columns) for entry in report.entries
    )
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _band(low: str, high: str, open_end: bool) -> str:
    return f"{low} to more: some entries are lower bounds" if open_end else f"{low} to {high} (k=2)"
