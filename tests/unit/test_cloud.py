"""The cloud of this machine by its files, and its region by a metadata service on request."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from carbon_otel import config, guard, here
from carbon_otel.host import cloud, metadata

AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"


@pytest.fixture
def machine(tmp_path):
    """A file system, and a function that writes a file into it."""

    def write(path, content):
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))

    return SimpleNamespace(root=tmp_path, write=write)


class TestFiles:
    @pytest.mark.parametrize(
        ("file", "content", "provider"),
        [
            ("chassis_asset_tag", f"{AZURE_TAG}\n", "azure"),
            ("chassis_asset_tag", "OracleCloud.com\n", "oci"),
            ("product_name", "Google Compute Engine\n", "gcp"),
            ("sys_vendor", "Amazon EC2\n", "aws"),
            ("sys_vendor", "Hetzner\n", "hetzner"),
            ("sys_vendor", "Scaleway\n", "scaleway"),
        ],
    )
    def test_the_firmware_names_the_cloud_and_no_region(self, machine, file, content, provider):
        machine.write(f"sys/class/dmi/id/{file}", content)
        assert cloud.find(machine.root, {}) == (provider, None, f"/sys/class/dmi/id/{file}")

    @pytest.mark.parametrize("maker", ["Dell Inc.", "QEMU", "OpenStack Foundation", "", "\x00\xff"])
    def test_other_firmware_names_no_cloud(self, machine, maker):
        machine.write("sys/class/dmi/id/sys_vendor", maker)
        assert cloud.find(machine.root, {}) is None

    @pytest.mark.parametrize(
        ("instance", "name"),
        [
            (
                {"cloud_name": "aws", "region": "eu-north-1", "availability_zone": "eu-north-1a"},
                "aws:eu-north-1",
            ),
            (
                {"cloud_name": "gce", "region": None, "availability_zone": "europe-west9-b"},
                "gcp:europe-west9",
            ),
            ({"cloud_name": "gce", "region": "europe-west9"}, "gcp:europe-west9"),
            ({"cloud_name": "azure", "region": "swedencentral"}, "azure:swedencentral"),
            ({"cloud_name": "oracle", "region": "eu-paris-1"}, "oci:eu-paris-1"),
            (
                {"cloud_name": "hetzner", "region": "eu-central", "availability_zone": "fsn1-dc14"},
                "hetzner:fsn1",
            ),
            ({"cloud_name": "aws", "region": 3}, None),
        ],
    )
    def test_cloud_init_names_the_region(self, machine, instance, name):
        machine.write("run/cloud-init/instance-data.json", {"v1": instance})
        assert cloud.find(machine.root, {}).name == name

    @pytest.mark.parametrize(
        "content",
        ["", "[]", "{}", '{"v1": 3}', '{"v1": {"cloud_name": "nocloud"}}', '{"v1": {"cloud_name": []}}'],
    )
    def test_a_strange_file_of_cloud_init_names_none(self, machine, content):
        machine.write("run/cloud-init/instance-data.json", content)
        assert cloud.find(machine.root, {}) is None

    @pytest.mark.parametrize(
        ("environ", "name"),
        [
            ({"AWS_REGION": "eu-west-3", "AWS_LAMBDA_FUNCTION_NAME": "train"}, "aws:eu-west-3"),
            ({"REGION_NAME": "West Europe", "WEBSITE_SITE_NAME": "train"}, "azure:westeurope"),
        ],
    )
    def test_functions_and_containers_name_their_region(self, machine, environ, name):
        assert cloud.find(machine.root, environ).name == name

    @pytest.mark.parametrize(
        "environ",
        [{"AWS_REGION": "eu-west-3"}, {"AWS_DEFAULT_REGION": "us-east-1"}, {"GOOGLE_CLOUD_PROJECT": "p"}],
    )
    def test_the_region_that_a_laptop_calls_is_no_place(self, machine, environ):
        assert cloud.find(machine.root, environ) is None


class Service(ThreadingHTTPServer):
    """A metadata service: answers by path, and a list of the requests."""

    daemon_threads = True

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.requests = answers, []
        self.released = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    def answer(self):
        self.server.requests.append((self.command, self.path, dict(self.headers)))
        answer = self.server.answers.get((self.command, self.path), (404, "", {}))
        if answer == "hang":
            self.server.released.wait(10)
            return
        status, body, headers = answer
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body.encode())

    do_GET = do_PUT = answer  # noqa: N815 - the names that the base class calls

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    """Starts metadata services; returns the address and the requests."""
    servers = []

    def start(answers):
        server = Service(answers)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_address, server.requests

    yield start
    for server in servers:
        server.released.set()
        server.shutdown()
        server.server_close()


TOKEN, DOCUMENT = "/latest/api/token", "/latest/dynamic/instance-identity/document"
AZURE = "/metadata/instance/compute?api-version=2021-02-01"
GCP = "/computeMetadata/v1/instance/zone"
FLAVOR = {"Metadata-Flavor": "Google"}
LONG_S = 30.0  # a busy machine may be slow; only the tests of hanging services have a short limit


class TestMetadata:
    @pytest.mark.parametrize(
        ("provider", "answers", "region"),
        [
            (
                "aws",
                {
                    ("PUT", TOKEN): (200, "a-token", {}),
                    ("GET", DOCUMENT): (200, '{"region": "eu-north-1", "accountId": "1"}', {}),
                },
                "eu-north-1",
            ),
            ("gcp", {("GET", GCP): (200, "projects/12/zones/europe-west9-a", FLAVOR)}, "europe-west9"),
            ("azure", {("GET", AZURE): (200, '{"location": "swedencentral"}', {})}, "swedencentral"),
            (
                "oci",
                {("GET", "/opc/v2/instance/"): (200, '{"canonicalRegionName": "eu-paris-1"}', {})},
                "eu-paris-1",
            ),
            (
                "hetzner",
                {("GET", "/hetzner/v1/metadata/availability-zone"): (200, "fsn1-dc14\n", {})},
                "fsn1",
            ),
        ],
    )
    def test_each_service_names_its_region(self, serve, monkeypatch, provider, answers, region):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        address, requests = serve(answers)
        assert metadata.region(provider, address, LONG_S) == region
        assert metadata.region(provider, address, LONG_S) == region
        assert len(requests) == len(answers), "the service is asked once in a process"

    def test_the_headers_of_one_vendor_only(self, serve):
        address, requests = serve(
            {("PUT", TOKEN): (200, "t", {}), ("GET", DOCUMENT): (200, '{"region": "x"}', {})}
        )
        metadata.region("aws", address, LONG_S)
        (_, _, first), (_, _, second) = requests
        assert (
            first["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
            and second["X-aws-ec2-metadata-token"] == "t"
        )
        assert not {"Metadata", "Metadata-Flavor", "Authorization"} & {*first, *second}

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((404, "", {}), "status 404"),
            ((500, "oops", {}), "status 500"),
            ((302, "", {"Location": "http://127.0.0.1:9/"}), "status 302"),
            ((200, "<html>proxy</html>", {}), "Expecting value"),
            ((200, "{}", {}), "location"),
            ((200, "[]", {}), "the metadata service of azure"),
            ((200, '{"location": 3}', {}), "named no region"),
            ((200, '{"location": ""}', {}), "named no region"),
        ],
    )
    def test_a_wrong_answer_is_no_region(self, serve, answer, reason):
        address, _ = serve({("GET", AZURE): answer})
        with pytest.raises(metadata.NoAnswer, match=reason):
            metadata.region("azure", address, LONG_S)

    def test_an_answer_without_googles_header_is_not_believed(self, serve):
        address, _ = serve({("GET", GCP): (200, "projects/12/zones/europe-west9-a", {})})
        with pytest.raises(metadata.NoAnswer, match="not from Google"):
            metadata.region("gcp", address, LONG_S)

    def test_a_service_that_hangs_is_left_after_the_limit(self, serve):
        address, _ = serve({("GET", AZURE): "hang"})
        begun = time.monotonic()
        with pytest.raises(metadata.NoAnswer, match="metadata service of azure"):
            metadata.region("azure", address, 0.3)
        assert time.monotonic() - begun < 5, "the service holds its answer back for ten seconds"

    def test_nothing_listens(self):
        with pytest.raises(metadata.NoAnswer, match="metadata service of azure"):
            metadata.region("azure", ("127.0.0.1", 9), LONG_S)

    def test_an_unknown_service_is_not_asked(self):
        with pytest.raises(metadata.NoAnswer, match="not known"):
            metadata.region("scaleway", ("127.0.0.1", 9), LONG_S)

    def test_the_request_is_not_made_on_the_calling_thread(self, serve, monkeypatch):
        threads = []
        connect = http.client.HTTPConnection.connect

        def seen(connection):
            threads.append(threading.current_thread())
            connect(connection)

        monkeypatch.setattr(http.client.HTTPConnection, "connect", seen)
        address, _ = serve({("GET", AZURE): (200, '{"location": "uksouth"}', {})})
        assert metadata.region("azure", address, LONG_S) == "uksouth"
        assert [thread.name for thread in threads] == ["carbon_otel region"]


class TestHere:
    @pytest.fixture
    def found(self, monkeypatch):
        """Sets what the files of the machine say."""
        guard.forget()
        return lambda provider, region: monkeypatch.setattr(
            cloud, "find", lambda: provider and cloud.Cloud(provider, region, "a file")
        )

    @pytest.fixture
    def asked(self, monkeypatch):
        """The providers whose metadata service was asked; each answers with a region."""
        asked = []
        monkeypatch.setattr(metadata, "region", lambda provider: asked.append(provider) or "europe-west9")
        return asked

    def test_no_region_is_used_or_asked_for_without_the_setting(self, found, asked):
        found("gcp", "europe-west9")
        assert here.factor(config.Settings()).intensity.zone == "WORLD"
        assert not asked

    def test_a_region_in_a_file_needs_no_request(self, found, asked):
        found("aws", "eu-north-1")
        factor = here.factor(config.Settings(detect_region=True))
        assert (factor.region, factor.intensity.zone, factor.pue) == ("aws:eu-north-1", "SE", 1.09)
        assert not asked

    def test_the_cloud_that_the_firmware_names_is_asked(self, found, asked):
        found("gcp", None)
        assert here.factor(config.Settings(detect_region=True)).region == "gcp:europe-west9"
        assert asked == ["gcp"]

    def test_a_given_region_is_not_asked_for(self, found, asked):
        found("gcp", None)
        settings = config.Settings(region="aws:eu-north-1", detect_region=True)
        assert here.factor(settings).region == "aws:eu-north-1"
        assert not asked

    @pytest.mark.parametrize(("provider", "region"), [(None, None), ("aws", "mars-1")])
    def test_a_region_that_is_not_known_is_one_warning(self, found, asked, caplog, provider, region):
        found(provider, region)
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                assert here.factor(config.Settings(detect_region=True)).intensity.zone == "WORLD"
        assert caplog.text.count("no region is used") == 1
        assert not asked

    def test_a_machine_that_names_no_cloud_asks_nobody(self, found, asked):
        found(None, None)
        here.factor(config.Settings(detect_region=True))
        assert not asked and here.hint() == ""

    def test_the_hint_has_what_to_set(self, found):
        found("gcp", "europe-west9")
        assert "set region='gcp:europe-west9'" in here.hint()
        found("azure", None)
        assert "set region='azure:...'" in here.hint()
