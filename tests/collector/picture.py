"""Draw the dashboard's queries from the data of four jobs: `python -m tests.collector.picture`, with matplotlib.

Writes `collector/panels.svg`, with the panels of the Prometheus that scrapes, and prints the table of
collector/README.md: what the panels show on each path, beside what the jobs say themselves. Takes two minutes.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.collector.four_jobs import DASHBOARD, PATHS, Seen, filled, four_jobs
from tests.collector.programs import COLLECTOR

PER_UNIT = "Joules per unit: token, request, sample"
PER_RUN = "Joules per execution of a stage"
UNITS = {"watth": "Wh", "watt": "W", "massg": "g", "joule": "J", "percentunit": "%", "none": ""}
COLUMNS = 24
MINUTE_S = 60
STEP_S = 15
# Around a panel, in inches: left, right, top, bottom.
MARGINS = {
    "stat": (0.1, 0.1, 0.3, 0.0),
    "bargauge": (1.2, 0.2, 0.35, 0.05),
    "timeseries": (0.5, 0.2, 0.35, 0.45),
}


def legend(target: dict, labels: dict[str, str]) -> str:
    """The name of a series, as Grafana makes it."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), target["legendFormat"]).strip()


def text(value: float, unit: str) -> str:
    """A value with its unit."""
    return f"{value * (100 if unit == 'percentunit' else 1):.4g} {UNITS[unit]}".strip()


def draw_panel(axes: Axes, panel: dict, seen: Seen) -> None:
    """One panel: a figure, bars or curves."""
    target, unit = panel["targets"][0], panel["fieldConfig"]["defaults"]["unit"]
    axes.set_title(panel["title"], fontsize=9, loc="left")
    expression = filled(target["expr"], interval_s=MINUTE_S)
    if panel["type"] == "timeseries":
        for series in seen.store.range(expression, seen.start_s - MINUTE_S, seen.end_s + MINUTE_S, STEP_S):
            seconds = [float(at_s) - seen.start_s for at_s, _ in series["values"]]
            values = [float(value) for _, value in series["values"]]
            axes.plot(seconds, values, label=legend(target, series["metric"]))
        axes.set_xlabel("seconds after the start of the jobs", fontsize=7)
        axes.set_ylabel(UNITS[unit], fontsize=7)
        axes.tick_params(labelsize=7)
        axes.set_ylim(0, axes.get_ylim()[1] * 1.6)  # room for the legend
        columns = 4 if len(axes.lines) > 4 else 2
        axes.legend(fontsize=5, loc="upper left", ncols=columns, frameon=False)
        return
    found = seen.store.query(expression, seen.end_s)
    bars = sorted((legend(target, sample["metric"]), float(sample["value"][1])) for sample in found)
    if panel["type"] == "stat":
        axes.set_axis_off()
        words = [f"{name}: {text(value, unit)}".removeprefix(": ") for name, value in bars]
        axes.text(0.5, 0.5, "\n".join(words), ha="center", va="center", fontsize=13, transform=axes.transAxes)
        return
    axes.barh([name for name, _ in bars], [value for _, value in bars], height=0.6)
    for place, (_, value) in enumerate(bars):
        axes.text(value, place, f" {text(value, unit)}", va="center", fontsize=7)
    axes.set_xlim(0, max(value for _, value in bars) * 1.4)
    axes.set_ylim(max(len(bars), 3) - 0.5, -0.5)
    axes.set_xticks([])
    axes.tick_params(labelsize=7)


def draw(seen: Seen, file: Path) -> None:
    """All panels, where the dashboard has them."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "carbon_otel"})
    panels = DASHBOARD["panels"]
    wide, high = 12.0, 10.0
    column, row = wide / COLUMNS, high / max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in panels)
    figure = Figure(figsize=(wide, high))
    for panel in panels:
        place = panel["gridPos"]
        left, right, top, bottom = MARGINS[panel["type"]]
        x, y = place["x"] * column + left, high - (place["y"] + place["h"]) * row + bottom
        size = place["w"] * column - left - right, place["h"] * row - top - bottom
        inches = (x / wide, y / high, size[0] / wide, size[1] / high)
        draw_panel(figure.add_axes(inches), panel, seen)
    figure.savefig(file, metadata={"Date": None})


def one(seen: Seen, title: str, **labels: str) -> float:
    """The value of a panel's series that has these labels; the sum, if there are several."""
    found = seen.shown(title).items()
    return sum(value for has, value in found if labels.items() <= dict(has).items())


def rows(seen: Seen) -> dict[str, tuple[float, float]]:
    """By row of the table: the jobs' own figure, and the panel's."""
    jobs = len(seen.jobs)
    training = one(seen, "Energy by stage", carbon_otel_stage_kind="training")
    sensors = one(seen, "Energy by method", carbon_otel_method="measured.counter")
    fit = one(seen, PER_RUN, carbon_otel_stage_name="fit")
    return {
        "Energy, Wh": (seen.own("joules") / 3600, one(seen, "Energy")),
        "Energy by service, Wh: the long job": (
            seen.jobs["long"]["joules"] / 3600,
            one(seen, "Energy by service", job="long"),
        ),
        "Energy by stage, Wh: training": (seen.own("fitted_j") / 3600, training),
        "Energy by method, Wh: `measured.counter`": (seen.own("joules") / 3600, sensors),
        "Emissions, mg": (seen.own("grams") * 1000, one(seen, "Emissions") * 1000),
        "Joules per token": (seen.own("scored_j") / (500 * jobs), one(seen, PER_UNIT)),
        "Joules per execution of `fit`": (seen.own("fitted_j") / jobs, fit),
        "Measured by a sensor, %": (100, one(seen, "Measured by a sensor") * 100),
        "Grid intensity, g/kWh": (seen.jobs["long"]["g_per_kwh"], one(seen, "Grid intensity, g/kWh")),
    }


def table(by_path: dict[str, Seen]) -> str:
    """The table of the README: for each way of the telemetry, the own figures and those of its stores."""
    columns: list[tuple[str, list[float]]] = []
    names: list[str] = []
    for way in dict.fromkeys(PATHS.values()):
        paths = [path for path in PATHS if PATHS[path] == way]
        shown = {path: rows(by_path[path]) for path in paths}
        names = list(shown[way])
        columns.append(("own footprints", [shown[way][name][0] for name in names]))
        columns += [(path, [shown[path][name][1] for name in names]) for path in paths]
    cells = [["panel", *(title for title, _ in columns)]]
    cells += [[name, *(f"{values[i]:.4g}" for _, values in columns)] for i, name in enumerate(names)]
    head, *rest = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([head, "|---" * len(cells[0]) + "|", *rest])


def main() -> None:
    """Run the jobs, draw and print."""
    with tempfile.TemporaryDirectory() as folder, four_jobs(Path(folder)) as by_path:
        draw(by_path["pulled"], COLLECTOR / "panels.svg")
        sys.stdout.write(f"{table(by_path)}\n")


if __name__ == "__main__":
    main()
