"""Metrics as JSON of OTLP (`ExportMetricsServiceRequest` of opentelemetry-proto), to be kept in a file.

They are written without the SDK and protobuf, which a measured process may not have loaded. Sums are cumulative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from carbon_otel._version import __version__
from carbon_otel.otel.counts import Count, Spread
from carbon_otel.otel.instruments import DESCRIBED
from carbon_otel.semconv import names as semconv

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricsData

_CUMULATIVE: Final = 2  # AggregationTemporality

Point = tuple[Mapping[str, Any], Count | Spread]


def request(
    resource: Mapping[str, Any], points: Mapping[str, Sequence[Point]], time_ns: int
) -> dict[str, Any]:
    """The request, with `resource` attributes and `points` by name of their metric."""
    metrics = []
    for name, of_name in points.items():
        if not of_name:
            continue
        unit, description = DESCRIBED[name]
        said = [_point(labels, counted, time_ns) for labels, counted in of_name]
        data: dict[str, Any] = {"dataPoints": said, "aggregationTemporality": _CUMULATIVE}
        kind = "histogram" if isinstance(of_name[0][1], Spread) else "sum"
        if kind == "sum":
            data["isMonotonic"] = True
        metrics.append({"name": name, "unit": unit, "description": description, kind: data})
    scope = {
        "scope": {"name": semconv.SCOPE, "version": __version__},
        "schemaUrl": semconv.SCHEMA_URL,
        "metrics": metrics,
    }
    return {"resourceMetrics": [{"resource": {"attributes": _attributes(resource)}, "scopeMetrics": [scope]}]}


def metrics_data(kept: Mapping[str, Any], time_ns: int) -> MetricsData:
    """What an exporter of the SDK takes, of a request that `request` has made; its points get the time `time_ns`.

    Raises KeyError, TypeError, ValueError, IndexError or AttributeError for anything else.
    """
    from opentelemetry.sdk.metrics import export as sdk
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    (of_resource,) = kept["resourceMetrics"]
    (of_scope,) = of_resource["scopeMetrics"]
    scope = of_scope["scope"]
    metrics = [
        sdk.Metric(each["name"], each["description"], each["unit"], _data(each, time_ns))
        for each in of_scope["metrics"]
    ]
    schema = of_scope["schemaUrl"]
    scoped = sdk.ScopeMetrics(InstrumentationScope(scope["name"], scope["version"], schema), metrics, schema)
    resource = Resource(_plain(of_resource["resource"]["attributes"]))
    return sdk.MetricsData([sdk.ResourceMetrics(resource, [scoped], resource.schema_url)])


def _data(metric: Mapping[str, Any], time_ns: int) -> Any:
    from opentelemetry.sdk.metrics import export as sdk

    cumulative = sdk.AggregationTemporality(_CUMULATIVE)
    if "sum" in metric:
        numbers = [
            sdk.NumberDataPoint(
                _plain(point["attributes"]),
                int(point["startTimeUnixNano"]),
                time_ns,
                float(point["asDouble"]),
            )
            for point in metric["sum"]["dataPoints"]
        ]
        return sdk.Sum(numbers, cumulative, is_monotonic=True)
    spreads = [
        sdk.HistogramDataPoint(
            attributes=_plain(point["attributes"]),
            start_time_unix_nano=int(point["startTimeUnixNano"]),
            time_unix_nano=time_ns,
            count=int(point["count"]),
            sum=float(point["sum"]),
            bucket_counts=[int(count) for count in point["bucketCounts"]],
            explicit_bounds=[float(bound) for bound in point["explicitBounds"]],
            min=float(point["min"]),
            max=float(point["max"]),
        )
        for point in metric["histogram"]["dataPoints"]
    ]
    return sdk.Histogram(spreads, cumulative)


def _point(labels: Mapping[str, Any], counted: Count | Spread, time_ns: int) -> dict[str, Any]:
    point: dict[str, Any] = {
        "attributes": _attributes(labels),
        "startTimeUnixNano": str(counted.start_ns),
        "timeUnixNano": str(time_ns),
    }
    if isinstance(counted, Count):
        return {**point, "asDouble": counted.total}
    return {
        **point,
        "count": str(sum(counted.buckets)),
        "sum": counted.total,
        "bucketCounts": [str(count) for count in counted.buckets],
        "explicitBounds": list(counted.bounds),
        "min": counted.least,
        "max": counted.greatest,
    }


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"stringValue": str(value)}


def _plain(attributes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {each["key"]: _plain_value(each["value"]) for each in attributes}


def _plain_value(value: Mapping[str, Any]) -> Any:
    ((kind, content),) = value.items()
    if kind == "arrayValue":
        return tuple(_plain_value(each) for each in content["values"])
    return int(content) if kind == "intValue" else content
