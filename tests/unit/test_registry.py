"""All telemetry is in the registry (OpenTelemetry Weaver's format), with its unit, type and level."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import carbon_otel
from carbon_otel import ranks
from carbon_otel.entry_points.detector import CarbonResourceDetector
from carbon_otel.ranks import Rank
from carbon_otel.semconv import names as semconv
from tests.unit.test_otel_sink import Application, server

FOLDER = Path(carbon_otel.__file__).parent / "semconv" / "registry"
GROUPS = [g for f in sorted(FOLDER.glob("[!r]*.yaml")) for g in yaml.safe_load(f.read_text())["groups"]]
DEFINED = {a["id"]: a for g in GROUPS for a in g["attributes"] if "id" in a}
METRICS = {g["metric_name"]: g for g in GROUPS if g["type"] == "metric"}
BY_ID = {g["id"]: g for g in GROUPS}
UPSTREAM = {"host.cpu.model.name"}
PYTHON = {"string": str, "double": (int, float), "string[]": tuple, "int": int, "boolean": bool}
INSTRUMENTS = {"counter": "Sum", "gauge": "Gauge", "histogram": "Histogram"}


def refs(group, level=None):
    levels = {a["ref"]: a["requirement_level"] for a in BY_ID[group]["attributes"]}
    return {ref for ref, at in levels.items() if level in (None, at)}


def definition(attribute):
    """The definition of the attribute, or of the template with the prefix of its name."""
    if attribute in DEFINED:
        return DEFINED[attribute]["type"]
    kind = DEFINED.get(attribute.rpartition(".")[0], {}).get("type", "")
    return kind.removeprefix("template[").removesuffix("]") if kind.startswith("template") else None


def name_of(attribute):
    return attribute if attribute in DEFINED else attribute.rpartition(".")[0]


def conform(attributes, group):
    for key, value in attributes.items():
        if key in UPSTREAM:
            continue
        assert definition(key), key
        assert isinstance(value, PYTHON[definition(key)]), key
        assert name_of(key) in refs(group), key
    assert refs(group, "required") <= set(attributes)


@pytest.fixture
def measured(tmp_path):
    application = Application(server(tmp_path))
    application.instrument(annotate_spans=True, remote_estimates="benchmark", market_intensity=94, water=True)
    with carbon_otel.stage("training", "fit") as s:
        application.draw(5)
        s.units(tokens=2000, samples=10)
        application.tree.package[1].break_()
        with application.tracer_provider.get_tracer("app").start_as_current_span("chat") as span:
            span.set_attribute("gen_ai.usage.output_tokens", 7)
            application.draw(1)
        asked = {"gen_ai.request.model": "llama-3.1-8b", "gen_ai.provider.name": "openai"}
        for name, tokens in ("ask", 100), ("stream", None):
            span = application.tracer_provider.get_tracer("app").start_span(name, attributes=asked)
            if tokens:
                span.set_attribute("gen_ai.usage.output_tokens", tokens)
            span.end()
    carbon_otel.flush()
    return application


def test_spans(measured):
    spans = measured.spans()
    conform(spans["fit"].attributes, "span.carbon_otel.stage")
    assert spans["fit"].instrumentation_scope.schema_url == semconv.SCHEMA_URL
    own = {k: v for k, v in spans["chat"].attributes.items() if k.startswith("carbon_otel")}
    conform(own, "span.carbon_otel.annotated")
    assert set(own) == refs("span.carbon_otel.annotated")
    prefix = "carbon_otel.remote."
    own = {k: v for k, v in spans["ask"].attributes.items() if k.startswith(prefix)}
    conform(own, "span.carbon_otel.remote")
    assert set(own) == refs("span.carbon_otel.remote")
    of_stage = {k for k in spans["fit"].attributes if k.startswith(prefix)}
    assert of_stage == {ref for ref in refs("span.carbon_otel.stage") if ref.startswith(prefix)}


def test_what_stands_beside_the_emissions_is_on_the_span(measured):
    found = measured.spans()["fit"].attributes
    for group in ("carbon_otel.embodied.", "carbon_otel.market.", "carbon_otel.water."):
        assert {k for k in found if k.startswith(group)} == {k for k in DEFINED if k.startswith(group)}
    grams = found["carbon_otel.emissions.g_co2e"] + found["carbon_otel.embodied.g_co2e"]
    assert found["carbon_otel.sci_g_per.sample"] == pytest.approx(grams / 10)
    assert found["carbon_otel.sci_g_per.1k_tokens"] == pytest.approx(grams / 2)


def test_metrics(measured):
    data = measured.reader.get_metrics_data()
    metrics = {m.name: m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics}
    own = {name for name in metrics if name.startswith("carbon_otel")}
    assert own | {"carbon_otel.cpu.steal"} == set(METRICS)  # steal: on guests only
    for name in own:
        entry, metric = METRICS[name], metrics[name]
        assert (metric.unit, type(metric.data).__name__) == (entry["unit"], INSTRUMENTS[entry["instrument"]])
        for point in metric.data.data_points:
            assert set(point.attributes) == refs(entry["id"], "required")
            assert all(isinstance(v, PYTHON[definition(k)]) for k, v in point.attributes.items())


def test_the_resource(monkeypatch, tmp_path):
    monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(server(tmp_path).root))
    attributes = CarbonResourceDetector().detect().attributes
    conform(attributes, "entity.carbon_otel.host")
    assert attributes["carbon_otel.method"] == "measured.counter"


def test_a_rank(monkeypatch, tmp_path):
    monkeypatch.setattr(ranks.group, "rank", Rank(3, 8, 1))
    application = Application(server(tmp_path))
    monkeypatch.setenv("CARBON_OTEL_POWERCAP_ROOT", str(application.tree.root))
    application.instrument()
    with carbon_otel.stage("training"):
        pass
    found = application.spans()["training"].attributes, CarbonResourceDetector().detect().attributes
    for attributes, group in zip(found, ("span.carbon_otel.stage", "entity.carbon_otel.host"), strict=True):
        conform(attributes, group)
        named = {"carbon_otel.rank": 3, "carbon_otel.world_size": 8, "carbon_otel.local_rank": 1}
        assert named.items() <= dict(attributes).items()


def test_every_name_of_the_conventions_is_registered():
    names = {v for k, v in vars(semconv).items() if k.isupper() and isinstance(v, str)}
    for name in names:
        if name.startswith("carbon_otel."):
            plain = name.removesuffix(".{}")
            known = plain in DEFINED or plain in METRICS or name == "carbon_otel.energy.{}_j"
            assert known, name


def test_the_registry_is_sound():
    ids = [a["id"] for g in GROUPS for a in g["attributes"] if "id" in a]
    assert len(ids) == len(set(ids)) and len(BY_ID) == len(GROUPS)
    for group in GROUPS:
        for attribute in group["attributes"]:
            if "ref" in attribute:
                assert attribute["ref"] in DEFINED.keys() | UPSTREAM
            else:
                assert re.fullmatch(r"carbon_otel(\.[a-z0-9_]+)+", attribute["id"])
                assert attribute["brief"].endswith((".", "…")) and attribute["examples"]
