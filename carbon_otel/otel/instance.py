"""What keeps the metrics of two processes apart: a `service.instance.id` that no other process has.

Without such an id, a collector takes the metrics of all processes of a service for one series, in which each
export overwrites the one before. SDK 1.39 sets none, every child inherits one that is set in a variable, and a
forked child has the resource of its parent.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from opentelemetry import metrics

from carbon_otel.guard import log_once
from carbon_otel.semconv import names as semconv


def given_id() -> str:
    """The id that OTEL_RESOURCE_ATTRIBUTES gives to this process, to its children, and often to a whole pod."""
    from opentelemetry.sdk.resources import OTELResourceDetector

    return str(OTELResourceDetector().detect().attributes.get(semconv.INSTANCE, ""))


def own_id(given: str = "") -> str:
    """A new id, which begins with the given one, if any."""
    return f"{given}.{uuid.uuid4().hex[:12]}" if given else str(uuid.uuid4())


def is_proxy(provider: Any) -> bool:
    """Whether a meter provider is the API's own, which stands for the one that the application sets later."""
    # By name, since the class is private to the API. Any other provider, a no-op too, is the application's choice.
    return type(provider).__name__ == "_ProxyMeterProvider"


def resource_of(provider: Any) -> Any | None:
    """The resource of a meter provider of the SDK, also of one that the application has set since; else None."""
    return getattr(getattr(_set(provider), "_sdk_config", None), "resource", None)


def _set(provider: Any) -> Any:
    """The provider that the application has set for a proxy, without that of Logfire around it."""
    if is_proxy(provider):
        provider = metrics.get_meter_provider()
    return getattr(provider, "provider", provider)


def label_of(provider: Any, *, forked: bool) -> Mapping[str, str] | None:
    """The label that points on the application's provider need, often none. None if it has set no provider yet."""
    provider = _set(provider)
    if is_proxy(provider):
        return None
    configuration = getattr(provider, "_sdk_config", None)
    resource = resource_of(provider)
    # The first is where SDK 1.39 has them.
    readers = getattr(configuration, "metric_readers", None) or getattr(provider, "_metric_readers", ())
    if resource is None or not _pushes(readers):
        return {}
    found = resource.attributes.get(semconv.INSTANCE)
    if found and found != given_id() and not forked:
        return {}
    if found:
        return {semconv.INSTANCE: own_id()}
    log_once(
        "the meter provider of the application has no service.instance.id, so a collector mixes up the metrics of "
        "processes that have the same service name; carbon_otel's metrics have it as an attribute. Write "
        'MeterProvider(..., resource=Resource.create({"service.instance.id": str(uuid.uuid4())})), or start each '
        "process with OTEL_RESOURCE_ATTRIBUTES=service.instance.id=$(uuidgen)"
    )
    return {semconv.INSTANCE: own_id()}


def _pushes(readers: Any) -> bool:
    """Whether a reader sends to a collector. Who scrapes a process knows it by its address."""
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return any(isinstance(reader, PeriodicExportingMetricReader) for reader in readers)
