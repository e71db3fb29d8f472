"""The quickstarts of `examples/README.md` that need a framework run as they stand there."""

from __future__ import annotations

import pytest

from tests.docs.quickstarts import FRAMEWORKS, quickstarts, stages


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_quickstart(name, tmp_path):
    assert FRAMEWORKS[name] <= stages(quickstarts()[name], tmp_path)
