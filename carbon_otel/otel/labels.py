"""The labels of a stage on metrics. Their number is bounded, since a backend keeps each combination for ever."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from carbon_otel.records import RUN, StageInfo
from carbon_otel.semconv import names as semconv
from carbon_otel.sensors.base import Device

# Beyond this number of kinds and names, names such as f"batch {i}" share the label "other"; beyond twice this
# number, kinds do, too.
_MOST_NAMES: Final = 200
_MOST_UNITS: Final = 20
_OTHER: Final = "other"


class Labels:
    """The metric labels of stages with one kind and name: without and with each group of devices."""

    __slots__ = ("groups", "key", "stage")

    def __init__(
        self, kind: str, name: str, groups: Iterable[tuple[str, str]], apart: Mapping[str, str]
    ) -> None:
        self.key = kind, name
        self.stage = {semconv.STAGE_KIND: kind, semconv.STAGE_NAME: name, **apart}
        self.groups = [
            {**self.stage, semconv.COMPONENT: component, semconv.METHOD: method}
            for component, method in groups
        ]


class LabelBook:
    """The labels in use. All that count stages ask one book, so that they use the same labels.

    `apart` is the label that keeps this process apart from others; see `instance`. `groups` are the devices that
    share one data point of a stage, by type and method, as indexes.
    """

    def __init__(self, devices: Sequence[Device], apart: Mapping[str, str]) -> None:
        self.apart = apart
        self.groups: dict[tuple[str, str], list[int]] = {}
        for i, device in enumerate(devices):
            self.groups.setdefault((device.type, device.method), []).append(i)
        self._labels: dict[tuple[str, str], Labels] = {}
        self._units: set[str] = set()

    def begin_again(self, apart: Mapping[str, str]) -> None:
        """The label that keeps this process apart has changed."""
        self.apart, self._labels = apart, {}

    def of(self, stage: StageInfo) -> Labels:
        # Each run has a new name.
        key = stage.kind, RUN if stage.kind == RUN else stage.name
        if key not in self._labels and len(self._labels) >= _MOST_NAMES:
            key = stage.kind, _OTHER
            if key not in self._labels and len(self._labels) >= 2 * _MOST_NAMES:
                key = _OTHER, _OTHER
        labels = self._labels.get(key)
        if labels is None:
            labels = self._labels[key] = Labels(*key, self.groups, self.apart)
        return labels

    def unit(self, unit: str) -> str:
        """The label of a functional unit."""
        if len(self._units) < _MOST_UNITS:
            self._units.add(unit)
        return unit if unit in self._units else _OTHER
