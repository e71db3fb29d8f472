"""The files of the collector: components are defined, used and built; no open network port; no secret."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

COLLECTOR = Path(__file__).parents[2] / "collector"
NAMES = ("config", "jaeger", "prometheus", "logfire", "upstream", "secure", "agent", "gateway")
CONFIGS = {name: yaml.safe_load((COLLECTOR / f"{name}.yaml").read_text()) for name in NAMES}
KINDS = ("receivers", "processors", "exporters", "extensions")
# The module that contains a component, by type.
MODULES = {
    "otlp": "otlpreceiver",
    "prometheus receiver": "prometheusreceiver",
    "filter": "filterprocessor",
    "debug": "debugexporter",
    "memory_limiter": "memorylimiterprocessor",
    "resource_detection": "resourcedetectionprocessor",
    "delta_to_cumulative": "deltatocumulativeprocessor",
    "transform": "transformprocessor",
    "prometheus": "prometheusexporter",
    "prometheus_remote_write": "prometheusremotewriteexporter",
    "file": "fileexporter",
    "otlp_http": "otlphttpexporter",
    "otlp_grpc": "otlpexporter",
    "health_check": "healthcheckextension",
    "file_storage": "filestorage",
    "bearertokenauth": "bearertokenauthextension",
}


def merged(name):
    """config.yaml and another file over it, as the collector merges them: maps are joined, lists replaced."""

    def join(one, other):
        if isinstance(one, dict) and isinstance(other, dict):
            both = one.keys() & other.keys()
            return {**one, **other, **{key: join(one[key], other[key]) for key in both}}
        return other

    return CONFIGS["config"] if name == "config" else join(CONFIGS["config"], CONFIGS[name])


def used(config):
    service = config["service"]
    found = {("extensions", name) for name in service["extensions"]}
    for pipeline in service["pipelines"].values():
        found |= {(kind, name) for kind in KINDS[:3] for name in map(expanded, pipeline[kind])}
    return found


def expanded(name):
    """A name in a pipeline with the variables' defaults."""
    return re.sub(r"\$\{env:\w+:-(\w+)\}", r"\1", name)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_used_component_is_defined(name):
    config = merged(name)
    assert used(config) <= {(kind, each) for kind in KINDS for each in config.get(kind, {})}
    for each, pipeline in config["service"]["pipelines"].items():
        assert pipeline["processors"][0] == "memory_limiter", each


def test_every_defined_component_is_used():
    for name in CONFIGS:
        defined = {(kind, each) for kind in KINDS for each in CONFIGS[name].get(kind, {})}
        assert defined - used(merged(name)) <= {
            ("exporters", "otlp_http/UPSTREAM_ENDPOINT"),  # the other protocol
            ("extensions", "bearertokenauth/LOGFIRE_TOKEN"),  # only its check, as the next
            ("extensions", "file_storage/OTELCOL_TLS"),
        }


def test_nothing_is_held_in_memory_before_the_queue_on_disk():
    for name in CONFIGS:
        config = merged(name)
        queued = {
            exporter
            for exporter, settings in config["exporters"].items()
            if (settings.get("sending_queue") or {}).get("storage")
        }
        for each, pipeline in config["service"]["pipelines"].items():
            if queued & {expanded(exporter) for exporter in pipeline["exporters"]}:
                assert not [p for p in pipeline["processors"] if p.startswith("batch")], each
        for exporter in queued:
            settings = config["exporters"][exporter]
            assert settings["retry_on_failure"]["max_elapsed_time"] == 0
            assert settings["sending_queue"]["sizer"] == "bytes"


def test_every_way_into_prometheus_sets_its_labels():
    """Other pipelines end at a collector that does, or at a backend that keeps the attributes of resources."""
    for name in CONFIGS:
        for each, pipeline in merged(name)["service"]["pipelines"].items():
            if any("prometheus" in exporter.lower() for exporter in pipeline["exporters"]):
                assert "transform/labels" in pipeline["processors"], (name, each)


def test_the_other_files_leave_the_pipelines_of_another_alone():
    """So that any of them may stand side by side."""
    own = {name: set(CONFIGS[name]["service"].get("pipelines", ())) for name in ("logfire", "upstream")}
    assert not own["logfire"] & own["upstream"]
    assert not (own["logfire"] | own["upstream"]) & set(CONFIGS["config"]["service"]["pipelines"])


def test_the_builder_has_exactly_the_used_components():
    needed = {
        MODULES["prometheus receiver" if each.startswith("prometheus/") else each.partition("/")[0]]
        for name in CONFIGS
        for kind in KINDS
        for each in merged(name).get(kind, {})
    }
    manifest = yaml.safe_load((COLLECTOR / "builder-config.yaml").read_text())
    built = {each["gomod"].split(" ")[0].rpartition("/")[2] for kind in KINDS for each in manifest[kind]}
    assert built == needed
    versions = {each["gomod"].split(" ")[1] for kind in KINDS for each in manifest[kind]}
    assert versions == {f"v{manifest['dist']['version']}"}


def test_everything_listens_on_loopback_by_default():
    text = (COLLECTOR / "config.yaml").read_text()
    endpoints = re.findall(r"^\s+endpoint: (.*?)(?: #.*)?$", text, re.MULTILINE)
    assert len(endpoints) == 4
    assert all(each.startswith("${env:OTELCOL_LISTEN:-127.0.0.1}:") for each in endpoints)


@pytest.mark.parametrize("file", sorted(p for p in COLLECTOR.rglob("*") if p.is_file()), ids=lambda p: p.name)
def test_no_secret_is_in_a_file(file):
    for line in file.read_text().splitlines():
        secret = re.search(r"(?i)(password|token|authorization)\w*\s*[:=]\s*(\S.*)", line)
        if secret and not line.lstrip().startswith("#"):
            assert secret[2].lstrip('"').removeprefix("Bearer%20").startswith("${"), line


COMPOSE = yaml.safe_load((COLLECTOR / "docker-compose.yaml").read_text())


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_service(name):
    service = COMPOSE["services"][name]
    image, _, tag = service["image"].rpartition(":")
    assert image and re.fullmatch(r"v?\d+(\.\d+)+(-full)?", tag)
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    # The collector's image has no program for a health check.
    assert "healthcheck" in service or name == "collector"
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert (COLLECTOR / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]


def test_the_passwords_have_to_be_written():
    text = (COLLECTOR / "docker-compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+):\?", text))
    lines = (COLLECTOR / ".env.example").read_text().splitlines()
    example = dict(line.split("=") for line in lines if "=" in line)
    assert example.pop("COMPOSE_PROJECT_NAME") == "carbon-otel"
    assert wanted == set(example) and not any(example.values())


def test_the_dashboard():
    dashboard = json.loads((COLLECTOR / "grafana/dashboards/lifecycle.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids)) > 10
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    assert variables == {"cluster", "environment", "service"}
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert all(f"${name}" in " ".join(queries) for name in variables)
    source = yaml.safe_load((COLLECTOR / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    uids = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert uids == {each["uid"] for each in source["datasources"]}
