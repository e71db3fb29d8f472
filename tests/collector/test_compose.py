"""The compose file, against the files that it mounts and the programs that it starts."""

from __future__ import annotations

import re
import subprocess
import urllib.parse

import pytest
import yaml

from tests.collector.programs import COLLECTOR, Collector, Jaeger, Prometheus, jaeger, own_address
from tests.integration.processes import wait_for

COMPOSE = yaml.safe_load((COLLECTOR / "docker-compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def mounts(name):
    """By path in the container: the file or folder of this repository."""
    for volume in SERVICES[name].get("volumes", ()):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            yield target, COLLECTOR / source


def on_this_machine(name, path):
    """The file that a container finds at a path."""
    for target, source in mounts(name):
        if path == target or path.startswith(f"{target}/"):
            return source / path[len(target) :].lstrip("/") if path != target else source
    raise AssertionError(f"nothing is mounted at {path}")


def configs(name):
    return [
        on_this_machine(name, argument.partition("=")[2])
        for argument in SERVICES[name]["command"]
        if argument.startswith(("--config=", "--config.file="))
    ]


def endpoints(config):
    """Every `endpoint` of a file."""
    if isinstance(config, dict):
        for key, value in config.items():
            if key == "endpoint" and isinstance(value, str):
                yield value
            else:
                yield from endpoints(value)


def listens(name):
    """The ports at which a service listens, by its own configuration, or by its image's default."""
    fixed = {"prometheus": {9090}, "grafana": {3000}, "postgres": {5432}, "mlflow": {5000}}
    if name in fixed:
        return fixed[name]
    found = [each for file in configs(name) for each in endpoints(yaml.safe_load(file.read_text()))]
    return {int(each.rpartition(":")[2]) for each in found if each.rpartition(":")[2].isdigit()}


@pytest.mark.parametrize("name", ["collector", "jaeger", "prometheus"])
def test_the_files_named_in_a_command_are_mounted(name):
    assert configs(name)
    for file in configs(name):
        assert file.is_file(), file


@pytest.mark.parametrize("name", SERVICES)
def test_published_ports_are_those_at_which_the_service_listens(name):
    for port in SERVICES[name].get("ports", ()):
        outside, _, inside = port.rpartition(":")
        assert outside == f"127.0.0.1:{inside}"
        assert int(inside) in listens(name)


def addresses():
    """(file, service, port) of everything that one service says of another."""
    prometheus = yaml.safe_load((COLLECTOR / "prometheus" / "prometheus.yml").read_text())
    for job in prometheus["scrape_configs"]:
        for each in job["static_configs"]:
            for target in each["targets"]:
                host, _, port = target.partition(":")
                yield "prometheus.yml", host, int(port)
    for file in sorted((COLLECTOR / "grafana" / "provisioning" / "datasources").glob("*.yaml")):
        for source in yaml.safe_load(file.read_text())["datasources"]:
            where = urllib.parse.urlsplit(source["url"])
            yield file.name, where.hostname, where.port
    host, _, port = SERVICES["collector"]["environment"]["JAEGER_ENDPOINT"].partition(":")
    yield "JAEGER_ENDPOINT", host, int(port)


@pytest.mark.parametrize(("said_in", "service", "port"), list(addresses()))
def test_an_address_is_that_of_a_service(said_in, service, port):
    assert service in SERVICES
    assert port in listens(service)


@pytest.mark.parametrize("name", ["collector", "jaeger"])
def test_every_variable_is_read_by_a_file(name):
    text = "".join(file.read_text() for file in configs(name))
    known = set(re.findall(r"\$\{env:(\w+)", text))
    assert set(SERVICES[name]["environment"]) <= known
    needed = set(re.findall(r"\$\{env:(\w+)\}", text))
    assert needed <= set(SERVICES[name]["environment"])


# What the documentation of an image says, where no file of ours and no program here does.
DOCUMENTED = {
    "grafana": {
        "variables": {"GF_SECURITY_ADMIN_PASSWORD", "GF_ANALYTICS_REPORTING_ENABLED"},
        "data": "/var/lib/grafana",
    },
    "postgres": {
        "variables": {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"},
        "data": "/var/lib/postgresql/data",
    },
    "prometheus": {"variables": set(), "data": "/prometheus"},
}
HEALTH = {
    "jaeger": ":13133/status",
    "prometheus": ":9090/-/ready",
    "grafana": ":3000/api/health",
    "mlflow": ":5000/health",
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_variables_are_those_of_the_image(name):
    assert set(SERVICES[name].get("environment", ())) <= DOCUMENTED[name]["variables"]


def test_postgresql_has_the_version_of_its_folder():
    """From 18 on, the image keeps its data elsewhere."""
    assert int(re.search(r":(\d+)\.", SERVICES["postgres"]["image"])[1]) < 18


@pytest.mark.parametrize("name", SERVICES)
def test_a_volume_is_where_the_program_writes(name):
    service = SERVICES[name]
    volumes = {each.split(":")[1] for each in service["volumes"] if not each.startswith(".")}
    written = {
        "collector": lambda: service["environment"]["OTELCOL_STORAGE"],
        "jaeger": lambda: service["environment"]["JAEGER_STORAGE"],
        "mlflow": lambda: service["command"][service["command"].index("--artifacts-destination") + 1],
    }
    assert volumes == {written[name]() if name in written else DOCUMENTED[name]["data"]}


def test_every_named_volume_has_one_user():
    used = [each.split(":")[0] for service in SERVICES.values() for each in service["volumes"]]
    assert sorted(each for each in used if not each.startswith(".")) == sorted(COMPOSE["volumes"])


def test_every_file_of_the_folders_is_mounted_where_it_is_looked_for():
    prometheus = on_this_machine("prometheus", "/etc/prometheus")
    config = yaml.safe_load((prometheus / "prometheus.yml").read_text())
    assert [file for pattern in config["rule_files"] for file in prometheus.glob(pattern)]
    provisioning = on_this_machine("grafana", "/etc/grafana/provisioning")
    assert {each.name for each in provisioning.iterdir()} == {"datasources", "dashboards"}
    for file in (provisioning / "dashboards").iterdir():
        for provider in yaml.safe_load(file.read_text())["providers"]:
            assert list(on_this_machine("grafana", provider["options"]["path"]).glob("*.json"))


@pytest.mark.parametrize("name", HEALTH)
def test_a_check_of_health_asks_the_address_that_answers(name):
    check = SERVICES[name]["healthcheck"]["test"]
    (asked,) = re.findall(r"http://127\.0\.0\.1(:\d+[\w/-]*)", " ".join(check))
    assert asked == HEALTH[name]
    assert int(asked[1:].partition("/")[0]) in listens(name)


def test_a_service_waits_only_for_services_that_say_when_they_are_ready():
    for service in SERVICES.values():
        waits = service.get("depends_on", [])
        assert set(waits) <= SERVICES.keys()
        if isinstance(waits, dict):
            assert all("healthcheck" in SERVICES[other] for other in waits)


def test_mlflow_asks_for_the_database_that_postgres_makes():
    database, mlflow = SERVICES["postgres"]["environment"], SERVICES["mlflow"]["environment"]
    where = urllib.parse.urlsplit(mlflow["MLFLOW_BACKEND_STORE_URI"])
    assert where.hostname in SERVICES
    assert (where.username, where.path) == (database["POSTGRES_USER"], f"/{database['POSTGRES_DB']}")
    assert mlflow["PGPASSWORD"] == database["POSTGRES_PASSWORD"]


def test_the_collector_starts_with_the_files_and_variables_of_its_service(tmp_path):
    files = configs("collector")
    with jaeger(tmp_path) as store:
        variables = {**SERVICES["collector"]["environment"], "JAEGER_ENDPOINT": store.grpc}
        del variables["OTELCOL_LISTEN"], variables["OTELCOL_STORAGE"]
        program = Collector(tmp_path, *files, **variables)
        try:
            program.wait_until_ready()
        finally:
            program.stop()


def test_prometheus_takes_the_flags_of_its_service(tmp_path):
    flags = [each for each in SERVICES["prometheus"]["command"] if not each.startswith("--config.file")]
    program = Prometheus(tmp_path, arguments=flags)
    try:
        program.wait_until_ready()
        assert "Unknown" not in program.log.read_text()
    finally:
        program.stop()


def test_traces_outlive_a_restart_of_jaeger(tmp_path):
    from tests.collector.load import post, span

    address = own_address()
    for again in (False, True):
        program = Jaeger(tmp_path, address)
        try:
            program.wait_until_ready()
            if not again:
                assert post(program.http, "traces", span("1" * 16)) == 200
            wait_for(lambda program=program: program.traces("load"))
        finally:
            program.stop()


def test_mlflow_starts_without_a_network():
    """The service runs the server of its image and nothing else; the server knows every flag and variable."""
    pytest.importorskip("mlflow")
    from mlflow.cli import server

    service = SERVICES["mlflow"]
    assert "entrypoint" not in service
    program, command, *arguments = service["command"]
    assert (program, command) == ("mlflow", "server")
    known = {flag for parameter in server.params for flag in parameter.opts}
    assert {each for each in arguments if each.startswith("--")} <= known
    variables = {parameter.envvar for parameter in server.params}
    assert {each for each in service["environment"] if each.startswith("MLFLOW_")} <= variables
    # The variant of the image with MLflow's extra `db`, that is, with psycopg2.
    assert service["image"].endswith("-full")
    # libpq reads the password, so that any character may be in it.
    assert "PGPASSWORD" in service["environment"]


def test_debians_docker_compose_reads_the_file(tmp_path):
    from shutil import which

    if not which("docker-compose"):
        pytest.skip("needs Debian's package docker-compose")
    file = tmp_path / "env"
    names = re.findall(r"\$\{(\w+):\?", (COLLECTOR / "docker-compose.yaml").read_text())
    file.write_text("".join(f"{name}=secret\n" for name in names))
    done = subprocess.run(
        ["docker-compose", "--env-file", file, "-f", COLLECTOR / "docker-compose.yaml", "config", "-q"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_exemplars_lead_to_a_source_of_traces():
    folder = COLLECTOR / "grafana" / "provisioning" / "datasources"
    sources = {
        source["uid"]: source
        for file in folder.glob("*.yaml")
        for source in yaml.safe_load(file.read_text())["datasources"]
    }
    (link,) = sources["prometheus"]["jsonData"]["exemplarTraceIdDestinations"]
    assert sources[link["datasourceUid"]]["type"] == "jaeger"
    assert link["name"] == "trace_id"
