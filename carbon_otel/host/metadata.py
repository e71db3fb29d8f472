"""The region of this machine from the metadata service of its cloud. Called only where the user asks for it.

The services share one link-local address, so only the one of the cloud that the machine itself names is asked
(`host/cloud.py`). No proxy is used and no redirection followed. The answer may have secrets, so only the region is
kept. No service was asked while this was written; the answers are those of the providers' pages.
"""

from __future__ import annotations

import functools
import http.client
import json
import threading
from collections.abc import Callable, Mapping
from typing import Final

from carbon_otel.host.cloud import region_of

ADDRESS: Final = ("169.254.169.254", 80)
WITHIN_S: Final = 0.3
_LONGEST: Final = 65536
_OK: Final = 200

Address = tuple[str, int]


class NoAnswer(Exception):
    """The metadata service did not name a region; the message has the reason."""


@functools.cache
def region(provider: str, address: Address = ADDRESS, within_s: float = WITHIN_S) -> str:
    """The region of this machine, asked once in a process by a thread of its own, which is waited for `within_s`.

    Raises:
        NoAnswer: for an error, a late answer, or a provider whose service is not known here.
    """
    ask = _SERVICES.get(provider)
    if ask is None:
        raise NoAnswer(f"the metadata service of {provider} is not known to carbon_otel")
    answers: list[str | None] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            answers.append(ask(address, within_s))
        except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="carbon_otel region", daemon=True)
    thread.start()
    thread.join(within_s)
    if errors:
        raise NoAnswer(f"the metadata service of {provider}: {errors[0]}")
    if not answers:
        raise NoAnswer(f"the metadata service of {provider} did not answer in {within_s:g} s")
    if answers[0] is None:
        raise NoAnswer(f"the metadata service of {provider} named no region")
    return answers[0]


def _get(
    address: Address, path: str, headers: Mapping[str, str], within_s: float, method: str = "GET"
) -> tuple[str, http.client.HTTPMessage]:
    """The body and the headers of an answer.

    Raises:
        ValueError: for another status than 200.
        OSError: if there is no connection.
    """
    connection = http.client.HTTPConnection(*address, timeout=within_s)
    try:
        connection.request(method, path, headers=dict(headers))
        answer = connection.getresponse()
        if answer.status != _OK:
            raise ValueError(f"status {answer.status} for {path}")
        return answer.read(_LONGEST).decode("utf-8"), answer.headers
    finally:
        connection.close()


def _aws(address: Address, within_s: float) -> str | None:
    lives = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token, _ = _get(address, "/latest/api/token", lives, within_s, "PUT")
    given = {"X-aws-ec2-metadata-token": token}
    document, _ = _get(address, "/latest/dynamic/instance-identity/document", given, within_s)
    return region_of("aws", json.loads(document)["region"])


def _gcp(address: Address, within_s: float) -> str | None:
    flavor = {"Metadata-Flavor": "Google"}
    zone, headers = _get(address, "/computeMetadata/v1/instance/zone", flavor, within_s)
    if headers.get("Metadata-Flavor") != "Google":
        raise ValueError("the answer is not from Google")
    return region_of("gcp", None, zone.rpartition("/")[2])


def _azure(address: Address, within_s: float) -> str | None:
    asked = {"Metadata": "true"}
    compute, _ = _get(address, "/metadata/instance/compute?api-version=2021-02-01", asked, within_s)
    return region_of("azure", json.loads(compute)["location"])


def _oci(address: Address, within_s: float) -> str | None:
    asked = {"Authorization": "Bearer Oracle"}
    instance, _ = _get(address, "/opc/v2/instance/", asked, within_s)
    return region_of("oci", json.loads(instance)["canonicalRegionName"])


def _hetzner(address: Address, within_s: float) -> str | None:
    zone, _ = _get(address, "/hetzner/v1/metadata/availability-zone", {}, within_s)
    return region_of("hetzner", None, zone)


_SERVICES: Final[Mapping[str, Callable[[Address, float], str | None]]] = {
    "aws": _aws,
    "gcp": _gcp,
    "azure": _azure,
    "oci": _oci,
    "hetzner": _hetzner,
}
