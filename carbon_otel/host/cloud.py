"""Whose cloud this machine is in, from local files and variables. Nothing is sent.

* `/run/cloud-init/instance-data.json` names cloud and region; containers do not have it.
* The firmware names the maker of the machine (DMI). A reseller of OpenStack is not named there.
* The variables of functions and containers of AWS and Azure. `AWS_REGION` alone is the region that a laptop calls,
  so it does not count.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

_CLOUD_INIT: Final = "run/cloud-init/instance-data.json"
_DMI: Final = "sys/class/dmi/id"
_CLOUD_NAMES: Final = {
    "aws": "aws",
    "gce": "gcp",
    "azure": "azure",
    "oracle": "oci",
    "hetzner": "hetzner",
    "scaleway": "scaleway",
}
# The beginning of what the firmware says, by file. Azure's tag is also that of Azure Stack on own ground.
_FIRMWARE: Final = (
    ("chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77", "azure"),
    ("chassis_asset_tag", "OracleCloud.com", "oci"),
    ("product_name", "Google Compute Engine", "gcp"),
    ("sys_vendor", "Amazon EC2", "aws"),
    ("sys_vendor", "Hetzner", "hetzner"),
    ("sys_vendor", "Scaleway", "scaleway"),
)
_AWS_CONTAINERS: Final = ("AWS_LAMBDA_FUNCTION_NAME", "ECS_CONTAINER_METADATA_URI_V4", "AWS_EXECUTION_ENV")


class Cloud(NamedTuple):
    """A cloud: its provider as in the table of regions, the region if it is known, and what named them."""

    provider: str
    region: str | None
    named_by: str

    @property
    def name(self) -> str | None:
        """`provider:region`; None if the region is not known."""
        return None if self.region is None else f"{self.provider}:{self.region}"


def find(root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Cloud | None:
    """The cloud of this machine; None if nothing names one. `root` is the root of the file system."""
    found = _by_variables(environ) or _by_cloud_init(root / _CLOUD_INIT)
    if found is not None:
        return found
    for file, begin, provider in _FIRMWARE:
        with contextlib.suppress(OSError):
            if (root / _DMI / file).read_text(errors="replace").strip().startswith(begin):
                return Cloud(provider, None, f"/{_DMI}/{file}")
    return None


def _by_variables(environ: Mapping[str, str]) -> Cloud | None:
    container = next((name for name in _AWS_CONTAINERS if environ.get(name)), None)
    if container and environ.get("AWS_REGION"):
        return Cloud("aws", environ["AWS_REGION"], f"AWS_REGION beside {container}")
    if environ.get("WEBSITE_SITE_NAME") and environ.get("REGION_NAME"):
        region = environ["REGION_NAME"].replace(" ", "").lower()
        return Cloud("azure", region, "REGION_NAME beside WEBSITE_SITE_NAME")
    return None


def _by_cloud_init(file: Path) -> Cloud | None:
    try:
        content = json.loads(file.read_text("utf-8"))
        instance = content["v1"]
        provider = _CLOUD_NAMES.get(instance["cloud_name"])
        region, zone = instance.get("region"), instance.get("availability_zone")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    if provider is None:
        return None
    return Cloud(provider, region_of(provider, region, zone), str(Path("/") / _CLOUD_INIT))


def region_of(provider: str, region: object, zone: object = None) -> str | None:
    """The region as the provider lists it, from its region and availability zone; None if they are no texts."""
    zone = zone if isinstance(zone, str) else ""
    if provider == "hetzner":  # its region is a continent; the town is the first part of the zone
        return zone.partition("-")[0].strip().lower() or None
    if isinstance(region, str) and region.strip():
        return region.strip().lower()
    return zone.strip().lower().rpartition("-")[0] or None if provider in ("gcp", "scaleway") else None
