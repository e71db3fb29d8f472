"""What users write into a stage: reserved keys, values of every kind, text that no protocol can carry."""

from __future__ import annotations

import enum

import numpy as np
import pytest

import carbon_otel
from carbon_otel.stages.arguments import attributes_of


def attribute(value):
    return attributes_of({"x": value}, {})["x"]


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("carbon_otel.energy.total_j", "app.energy.total_j"),
        ("carbon_otel.stage.kind", "app.stage.kind"),
        ("Carbon_OTel.method", "app.method"),
        ("hw.id", "app.id"),
        ("logfire.msg", "app.msg"),
        ("logfire.msg_template", "app.msg_template"),
        ("mlflow.spanInputs", "app.spanInputs"),
    ],
)
def test_reserved_keys_raise_with_the_remedy(key, instead):
    with pytest.raises(ValueError, match=f"write another, such as '{instead}'"):
        carbon_otel.stage("training", attributes={key: 1})
    with pytest.raises(ValueError, match="write another"):
        carbon_otel.stage("training", **{key: 1})


@pytest.mark.parametrize("key", ["", " ", 3, None, "x" * 251])
def test_wrong_keys_raise_with_the_remedy(key):
    with pytest.raises(ValueError, match="write a text of 1 to 250 characters"):
        carbon_otel.stage("training", attributes={key: 1})


def test_keys_may_have_the_names_of_our_parameters():
    names = {"kind": "a", "name": "b", "attributes": "c", "self": "d"}
    assert attributes_of(names, {}) == names
    s = carbon_otel.stage("training", attributes=names, self="e", more="f")
    assert s._attributes == {**names, "self": "e", "more": "f"}
    assert carbon_otel.stage("training").units(self=3)._units == {"self": 3.0}


class Colour(str, enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (True, True),
        (np.bool_(True), True),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        ([1, 2.5], (1.0, 2.5)),
        ([np.float32(0.5), 1.0], (0.5, 1.0)),
        ((np.bool_(True), False), (True, False)),
        ([Colour.RED, "blue"], ("red", "blue")),
        ([], ()),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_values_are_sent_in_the_plain_types_of_python(given, sent):
    value = attribute(given)
    assert value == sent and type(value) is type(sent)
    if isinstance(sent, tuple):
        assert [type(item) for item in value] == [type(item) for item in sent]


@pytest.mark.parametrize(
    "wrong", [2**63, -(2**63) - 1, [2**63], [True, 1], [None], [[1]], np.array([1]), {1}, 1j]
)
def test_values_that_cannot_be_sent_raise_with_the_remedy(wrong):
    with pytest.raises(ValueError, match=r"write x=str\("):
        attribute(wrong)


def test_long_values_are_cut():
    assert attribute("x" * 10**6) == "x" * 8192
    assert attribute(["y" * 10**6]) == ("y" * 8192,)
    assert attribute([1] * 10**6) == (1,) * 1024


LONE = "a\ud800b\udfff"


def test_lone_surrogates_are_replaced():
    s = carbon_otel.stage("training", LONE, attributes={LONE: LONE, "list": [LONE]})
    words = [s._name, *s._attributes, s._attributes["list"][0], s._attributes["a\ufffdb\ufffd"]]
    assert words == ["a\ufffdb\ufffd", "a\ufffdb\ufffd", "list", "a\ufffdb\ufffd", "a\ufffdb\ufffd"]
    for word in words:
        word.encode()
    assert carbon_otel.stage("training", "\ud83d\ude00")._name == "\U0001f600"
    assert carbon_otel.stage("training", "Größe 🌱")._name == "Größe 🌱"


def test_a_value_that_changes_after_the_call_is_a_copy():
    numbers, mapping = [1, 2], {"x": 1}
    s = carbon_otel.stage("training", attributes=mapping, numbers=numbers)
    numbers.append(3)
    mapping["x"] = 2
    assert s._attributes == {"x": 1, "numbers": (1, 2)}
