"""The values for the official chart, and the pod: against the chart's keys and our own files."""

from __future__ import annotations

import re

import pytest
import yaml

from carbon_otel.config import Settings
from tests.collector.programs import COLLECTOR

FOLDER = COLLECTOR / "kubernetes"
VALUES = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("agent", "gateway")}
# What open-telemetry/opentelemetry-collector documents in its values.yaml; it refuses every other key.
KEYS = {
    "mode": {"daemonset", "deployment", "statefulset"},
    "fullnameOverride": str,
    "replicaCount": int,
    "image": {"repository": str, "tag": str, "digest": str, "pullPolicy": str},
    "command": {"name": str, "extraArgs": list},
    "configMap": {"create": bool, "existingName": str, "existingPath": str},
    "extraEnvs": list,
    "extraVolumes": list,
    "extraVolumeMounts": list,
    "securityContext": dict,
    "ports": dict,
    "resources": {"limits": dict, "requests": dict},
    "tolerations": list,
    "service": {"enabled": bool, "type": str, "clusterIP": str, "annotations": dict},
    "podDisruptionBudget": {"enabled": bool, "minAvailable": int, "maxUnavailable": int},
}
# The ports that the chart opens by default, and the environment that it gives to the collector.
PORTS = {"otlp", "otlp-http", "jaeger-compact", "jaeger-thrift", "jaeger-grpc", "zipkin", "metrics"}


def check(value, kind, at):
    if isinstance(kind, dict):
        for key, each in value.items():
            assert key in kind, f"{at}.{key} is no key of the chart"
            check(each, kind[key], f"{at}.{key}")
    elif isinstance(kind, set):
        assert value in kind, at
    else:
        assert type(value) is kind, at


@pytest.mark.parametrize("name", VALUES)
class TestChart:
    def test_every_key_is_one_of_the_chart(self, name):
        check(VALUES[name], KEYS, name)
        assert VALUES[name]["ports"].keys() <= PORTS
        assert all(port == {"enabled": False} for port in VALUES[name]["ports"].values())

    def test_it_runs_our_files_with_their_variables(self, name):
        values = VALUES[name]
        own = f"{name}.yaml"
        assert f"--config=/etc/otelcol/{own}" in values["command"]["extraArgs"]
        text = (COLLECTOR / "config.yaml").read_text() + (COLLECTOR / own).read_text()
        given = {each["name"] for each in values["extraEnvs"]}
        assert given <= set(re.findall(r"\$\{env:(\w+)", text))
        assert given >= set(re.findall(r"\$\{env:(\w+)\}", text))
        # The ConfigMap is made of these files, as the first lines say.
        said = (FOLDER / "agent.yaml").read_text()
        assert f"collector/{own}" in said and "relay=collector/config.yaml" in said

    def test_mounts_have_volumes_and_the_queue_is_on_one(self, name):
        values = VALUES[name]
        volumes = {each["name"] for each in values["extraVolumes"]}
        mounts = {each["mountPath"]: each["name"] for each in values["extraVolumeMounts"]}
        assert set(mounts.values()) == volumes
        storage = {each["name"]: each.get("value") for each in values["extraEnvs"]}["OTELCOL_STORAGE"]
        assert any(storage.startswith(path) for path in mounts)

    def test_the_version_is_that_of_the_compose_file(self, name):
        compose = yaml.safe_load((COLLECTOR / "docker-compose.yaml").read_text())
        image = VALUES[name]["image"]
        assert f"{image['repository']}:{image['tag']}" == compose["services"]["collector"]["image"]


def test_agents_find_the_gateways():
    agent = {each["name"]: each.get("value") for each in VALUES["agent"]["extraEnvs"]}
    gateway = VALUES["gateway"]
    assert agent["GATEWAY_ENDPOINT"] == f"dns:///{gateway['fullnameOverride']}:4317"
    # Without an address of its own, the service's name has the addresses of all gateways.
    assert gateway["service"]["clusterIP"] == "None"


# https://kubernetes.io/docs/concepts/workloads/pods/downward-api/#available-fields
DOWNWARD = re.compile(
    r"metadata\.(name|namespace|uid|labels\['[^']+'\]|annotations\['[^']+'\])"
    r"|spec\.(serviceAccountName|nodeName)|status\.(hostIPs?|podIPs?)"
)


def test_the_pod():
    pod = yaml.safe_load((FOLDER / "pod.yaml").read_text())
    (container,) = pod["spec"]["containers"]
    defined = set()
    for each in container["env"]:
        if "valueFrom" in each:
            path = each["valueFrom"]["fieldRef"]["fieldPath"]
            assert DOWNWARD.fullmatch(path), path
            label = re.fullmatch(r"metadata\.labels\['(.*)'\]", path)
            assert not label or label[1] in pod["metadata"]["labels"]
        else:
            # Kubernetes fills in variables that stand further up.
            assert set(re.findall(r"\$\((\w+)\)", each["value"])) <= defined
            assert not re.search(r"\s", each["value"])
        defined.add(each["name"])
    ours = {name for name in defined if name.startswith("CARBON_OTEL_")}
    assert ours <= {f"CARBON_OTEL_{name.upper()}" for name in Settings.__dataclass_fields__}
    attributes = next(
        each["value"] for each in container["env"] if each["name"] == "OTEL_RESOURCE_ATTRIBUTES"
    )
    assert {each.partition("=")[0] for each in attributes.split(",")} == {
        "k8s.cluster.name",
        "k8s.namespace.name",
        "k8s.node.name",
        "k8s.pod.name",
        "k8s.pod.uid",
        "deployment.environment.name",
    }
    volumes = {each["name"] for each in pod["spec"]["volumes"]}
    assert {each["name"] for each in container["volumeMounts"]} == volumes
