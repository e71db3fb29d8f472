"""Tests with two lengths: brief for every run, long for `pytest -m soak`."""

from __future__ import annotations

from typing import TypeVar

import pytest

T = TypeVar("T")
LONGEST_S = 3600


def brief_and_long(argument: str, brief: T, long: T) -> pytest.MarkDecorator:
    """Parametrises a test by its length. The assertions are the same."""
    marks = (pytest.mark.soak, pytest.mark.timeout(LONGEST_S))
    return pytest.mark.parametrize(
        argument, [pytest.param(brief, id="brief"), pytest.param(long, id="long", marks=marks)]
    )
