"""What a page tells its reader to run or to set is there with the extras that the page names."""

from __future__ import annotations

import re
import sys
from importlib import metadata

import pytest

from tests.docs.environments import closure, extras_of
from tests.docs.pages import PAGES, ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# What a page may say, and the distribution that it takes.
NEEDS = {
    r"\bopentelemetry-instrument (?!-)\S": "opentelemetry-distro",
    r"\bOTEL_\w+_EXPORTER=prometheus\b": "opentelemetry-exporter-prometheus",
    r"^import logfire$": "logfire",
    r"^pytest\b": "pytest",
    r"^(carbon-otel|python -m carbon_otel)\b": "typer",
}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_names_the_extras_of_what_it_says(page):
    if page == "CHANGELOG.md":
        return  # it tells of changes, and is no manual
    text = PAGES[page].text
    extras = extras_of(page)
    assert extras <= EXTRAS.keys()
    there = closure(extras)
    missing = {
        found[0]: needed
        for pattern, needed in NEEDS.items()
        if (found := re.search(pattern, text, re.MULTILINE)) and needed not in there
    }
    assert not missing, f"{page} names no extra that installs {missing}"


def test_every_pattern_is_in_a_page():
    texts = "\n".join(page.text for page in PAGES.values())
    assert [pattern for pattern in NEEDS if not re.search(pattern, texts, re.MULTILINE)] == []


@pytest.mark.parametrize("needed", sorted(set(NEEDS.values()) - {"ecologits"}))
def test_the_distribution_is_one(needed):
    assert metadata.distribution(needed)
