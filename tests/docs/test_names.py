"""Links, files, names, options and figures in the pages exist as the pages write them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest
import typer.main

import carbon_otel
from carbon_otel import cli, config
from carbon_otel.carbon import grid
from carbon_otel.carbon.grid import intensity
from carbon_otel.carbon.life_cycle import Embodied, Market
from carbon_otel.carbon.water import Water
from carbon_otel.footprint import NOT_MEASURED, Cost, Footprint
from carbon_otel.intensity.pricing import Priced
from carbon_otel.mlflow.schema import by_hour
from carbon_otel.mlflow.schema import names as schema
from carbon_otel.mlflow.schema import pages as page_names
from carbon_otel.provenance import Band
from carbon_otel.records import Foresight, RemoteCall, RemoteFigures
from carbon_otel.semconv import names as semconv
from carbon_otel.sensors import apple, cpu_model, grace, intel_gpu, jetson, memory_model, rapl
from carbon_otel.sensors.amd import gpu as amd
from carbon_otel.sensors.nvidia import gpu as nvidia
from carbon_otel.sensors.nvidia import mig
from tests.docs.pages import PAGES, ROOT, table

pages = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pages
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.prose):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.folder / path if path else ROOT / page.name
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text("utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


def test_every_page_can_be_reached_from_the_readme():
    reached, todo = set(), ["README.md"]
    while todo:
        page = PAGES[todo.pop()]
        reached.add(page.name)
        for target in re.findall(r"\]\(([^)#]+\.md)", page.prose):
            name = (page.folder / target).resolve().relative_to(ROOT).as_posix()
            if name in PAGES and name not in reached:
                todo.append(name)
    assert reached == set(PAGES)


def test_the_readme_is_short():
    assert PAGES["README.md"].text.count("\n") <= 180


@pages
def test_files_and_folders_exist(page):
    for span in page.spans():
        path = span.partition("::")[0].partition(" ")[0]
        is_path = re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path) and path.endswith((".py", ".yaml", ".csv", "/"))
        if is_path and not path.startswith("carbon/"):
            places = (ROOT / path, page.folder / path, ROOT / "carbon_otel" / path)
            assert any(place.exists() for place in places), f"{page.name}: {span}"


@pages
def test_paths_in_commands_exist(page):
    code = [line for block in page.blocks("bash") for line in block.code.splitlines()]
    for line in (*page.spans(), *code):
        for path in re.findall(r"(?<![\w/.])(?:tests|collector|examples|carbon_otel)/[\w./-]*", line):
            made = path == "collector/.env"  # by the reader
            assert made or (ROOT / path).exists(), f"{page.name}: {line}"


def texts(folder: str) -> Iterator[str]:
    """The string constants of a room, as regular expressions: any text stands for a placeholder."""
    for file in (ROOT / "carbon_otel" / folder).rglob("*.py"):
        tree = ast.parse(file.read_text())
        inside = {
            id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
                    for part in node.values
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                yield re.escape(node.value)


def matches(name: str, patterns: set[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


ATTRIBUTES = {re.escape(v).replace(r"\{\}", ".+") for v in vars(semconv).values() if isinstance(v, str)}
OF_MLFLOW = {text for text in texts("mlflow") if text.startswith("carbon")}


def metrics_of_a_run() -> set[str]:
    """The metrics of a run with a device `<device>` and a stage `training` that has samples."""
    figures = {f.name: 1.0 for f in fields(Footprint) if isinstance(getattr(NOT_MEASURED, f.name), float)}
    footprint = replace(
        NOT_MEASURED,
        **figures,
        devices_inclusive={"device": 1.0},
        components={"cpu": 1.0},
        stages={"training": Cost(1.0, 1.0), "run": Cost(1.0, 1.0)},
        embodied=Embodied(1.0, 1.0, 1.0, 1.0, {"training": 1.0, "run": 1.0}, 4.0, ""),
        market=Market(1.0, 1.0, intensity("FR")),
        water=Water(1.0, 1.0, 1.0, ""),
    )
    sums = schema.footprint_metrics(replace(footprint, embodied=None))
    sums = dict.fromkeys(sums, 0.0) | schema.footprint_metrics(footprint, units={"training/samples": 1.0})
    for known in RemoteFigures(*[1.0] * 6, source=""), None:
        sums |= schema.remote_metrics(RemoteCall("", "", known))
    foreseen = [
        name
        for in_run in (True, False)
        for name in schema.foresight_metrics(
            Foresight(in_run, (1.0, 2.0, 3.0), 2.0, (1.0, 2.0, 3.0), None, "", left_s=1.0, measured_j=2.0)
        )
    ]
    figures = (*sums, *schema.rates_per_1k(sums), *foreseen, "carbon/power/device_w")  # a gauge of `Segment`
    shown = {metric for name in figures if (metric := page_names.metric(name)) is not None}
    return {name.replace("/device_", "/<device>_") for name in shown}


METRICS = metrics_of_a_run() | {"carbon/training/emissions_g", "carbon/inference/sci_g_per_1k_samples"}
METRICS |= by_hour.metrics(Priced(1.0, 1.0, 1.0, 1.0, 1.0, ()), 1.0, 1.0).keys()


@pages
def test_names_of_metrics_attributes_and_tags(page):
    for span in page.spans():
        if re.fullmatch(r"(carbon_otel|hw)\.[a-z0-9_.]+", span):
            known = hasattr(carbon_otel, span.removeprefix("carbon_otel.").partition(".")[0])
            assert matches(span, ATTRIBUTES) or known, f"{page.name}: {span}"
        elif re.fullmatch(r"carbon\.[a-z0-9_.]+", span):
            assert matches(span, OF_MLFLOW), f"{page.name}: {span}"
        elif re.fullmatch(r"(system/)?carbon/[\w<>/]+", span):
            assert span in METRICS, f"{page.name}: {span}"
        elif re.fullmatch(r"footprint\.\w+(\(\))?", span):
            assert hasattr(Footprint, span.removesuffix("()").partition(".")[2]), f"{page.name}: {span}"
        elif re.fullmatch(r"carbon_otel\.\w+\(.*\)", span):
            assert hasattr(carbon_otel, span.partition("(")[0].partition(".")[2]), f"{page.name}: {span}"


def test_a_name_that_is_not_in_the_code_is_found():
    assert not matches("carbon_otel.energy.totals_j", ATTRIBUTES - {"carbon_otel\\.energy\\..+_j"})
    assert not matches("carbon.measured", OF_MLFLOW)
    assert "carbon/energy_mwh" not in METRICS


@pages
def test_settings_and_their_variables(page):
    known = {config.variable(name) for setting in config.SETTINGS for name in setting.names}
    known.add(config.DISABLED.variable)
    assert set(re.findall(r"CARBON_OTEL_[A-Z_]*[A-Z]", page.text)) <= known
    arguments = {name for setting in config.SETTINGS for name in setting.names}
    for call in re.findall(r"instrument\(([^)]*)\)", page.text):
        assert set(re.findall(r"(\w+)=", call)) <= arguments | {"tracer_provider", "meter_provider"}


def commands() -> dict[str, set[str]]:
    """The options of each command of `carbon-otel`."""
    app = typer.main.get_command(cli.app)
    found = {}
    todo = [((), app)]
    while todo:
        path, command = todo.pop()
        found[" ".join(path)] = {o for p in command.params for o in p.opts} | {"--help"}
        todo += [((*path, name), each) for name, each in getattr(command, "commands", {}).items()]
    return found


@pages
def test_commands_and_options(page):
    known = commands()
    code = [line for block in page.blocks("bash") for line in block.code.splitlines()]
    for line in (*page.spans(), *code):
        for call in re.findall(r"(?:^|&& )carbon-otel ([^#&]*)", line):
            words = call.partition(" -- ")[0].split()
            name = next(
                n for n in sorted(known, key=len, reverse=True) if words[: len(n.split())] == n.split()
            )
            assert name or words[0].startswith("--"), f"{page.name}: {line}"
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert options <= known[name], f"{page.name}: {line}"


# A row of the table of sensors, by its first words, and the band that the code gives it.
BANDS = {
    "CPU, Intel": rapl._INTEL_PACKAGE,
    "CPU, AMD": rapl._AMD_PACKAGE,
    "memory": rapl._DRAM,
    "whole host": rapl._PSYS,
    "NVIDIA GPU, Volta": nvidia._COUNTER,
    "NVIDIA GPU without": nvidia._POWER,
    "NVIDIA MIG": mig._SPLIT,
    "AMD GPU (": amd._COUNTER,
    "AMD GPU without": amd._POWER,
    "Intel GPU": intel_gpu._BAND,
    "NVIDIA Grace": grace._BAND,
    "NVIDIA Jetson": jetson._BAND,
    "Apple silicon": apple._BAND,
    "CPU without counter": cpu_model.thread_power("unknown").band,
    "memory, where": memory_model._BAND,
    "emissions": grid.intensity("FR").band,
}


def shown(band: Band) -> str:
    """How the page begins its band, where that is symmetric."""
    return f"±{(band.high - 1) * 100:.0f} %"


def test_bands_and_their_coverage():
    rows = table(PAGES["carbon_otel/sensors/README.md"].text)
    assert len(rows) == len(BANDS)
    for row in rows:
        band = BANDS[max((name for name in BANDS if row[0].startswith(name)), key=len)]
        assert row[4] == band.coverage, row
        if row[3].startswith("±"):
            assert row[3].startswith(shown(band)), row
    assert f"{memory_model.WATTS_PER_GB:.2f} W/GB" in PAGES["carbon_otel/sensors/README.md"].text


def test_the_table_of_metrics():
    units = {row[2] for row in table(PAGES["carbon_otel/otel/README.md"].section("Metrics"))}
    assert {unit.strip("`") for unit in units} == {
        *(semconv.JOULE, semconv.WATT, semconv.SECOND, semconv.RATIO),
        *(semconv.UNIT_COUNT, semconv.REQUEST_COUNT, semconv.GRAM, semconv.GRAM_PER_KWH),
    }
    metrics = {v for k, v in vars(semconv).items() if k.startswith(("HW_", "STAGE_", "CPU_", "CARBON_"))}
    metrics |= {semconv.REMOTE_ENERGY, semconv.REMOTE_EMISSIONS, semconv.REMOTE_REQUESTS}
    text = PAGES["carbon_otel/otel/README.md"].section("Metrics")
    labels = {semconv.HW_ID, semconv.HW_TYPE, semconv.HW_NAME, semconv.STAGE_KIND, semconv.STAGE_NAME}
    assert {name for name in metrics if f"`{name}`" not in text} <= labels


def labels_of_benchmarks() -> set[str]:
    """The rows that the benchmarks may print, as regular expressions."""
    patterns = set()
    for file in (ROOT / "tests" / "benchmarks").glob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "table":
                label = node.args[0]
                parts = label.values if isinstance(label, ast.JoinedStr) else [label]
                patterns.add(
                    "".join(re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in parts)
                )
    return patterns


def test_the_table_of_costs_has_rows_of_the_benchmarks_a_date_and_versions():
    section = PAGES["tests/README.md"].section("What it costs")
    assert re.search(
        r"Measured on 20\d\d-\d\d-\d\d with Python [\d.]+, opentelemetry [\d.]+, codecarbon [\d.]+", section
    )
    patterns = labels_of_benchmarks()
    for row in table(section):
        assert any(re.match(pattern, row[0]) for pattern in patterns), row[0]
    others = [page.name for page in PAGES.values() if re.search(r"codecarbon \d+ ms", page.text)]
    assert others == ["tests/README.md"], "costs are in one place"


def test_the_demo_prints_the_rows_of_the_readme():
    source = (ROOT / "carbon_otel" / "cli" / "demo_table.py").read_text()
    (block,) = PAGES["README.md"].blocks("text")
    rows = [re.split(r"  +", line.strip())[0] for line in block.code.splitlines()]
    labels = re.findall(r'add_row\("([^"]+)"', source)
    assert [row for row in rows if row in {label.strip() for label in labels}] == [s.strip() for s in labels]


def test_the_wheel_has_the_pages_of_its_rooms():
    """They are beside the code on purpose: small, and found where the package is installed."""
    inside = [name for name in PAGES if name.startswith("carbon_otel/")]
    assert len(inside) == 17
    assert sum(Path(ROOT / name).stat().st_size for name in inside) < 160_000
