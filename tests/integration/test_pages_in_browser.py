"""The pages of report, compare and where in a real browser: for everybody, on a phone, in the dark, on paper."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from tests.integration.browser import DESKTOP, PHONE, Browser, browser

pytest.importorskip("jinja2", reason="Jinja2 comes with mlflow")

from tests.unit.test_pages import life_pages

pytestmark = pytest.mark.chaos

CLOUDS = ("ovhcloud", "lambda")  # axe takes a minute for the rows of all regions
KINDS = ("report", "compare", "where")
VIEWS = {
    "desktop": (DESKTOP, False),
    "phone": (PHONE, False),
    "dark": (DESKTOP, True),
    "dark phone": (PHONE, True),
}
AXE = "axe.run().then(found => found.violations.map(v => `${v.impact} ${v.id}: ${v.nodes[0].html}`))"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
TIP = """(() => { const tip = document.activeElement.querySelector('.tip');
    if (!tip || getComputedStyle(tip).display === 'none') return null;
    const box = tip.getBoundingClientRect();
    return {left: box.left, right: box.right, width: innerWidth, text: tip.textContent}; })()"""
FOCUSED = "document.activeElement.className || document.activeElement.tagName"
ONE_TERM = "document.querySelectorAll('.term')[%d].focus({focusVisible: true})"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("pages")
    for name, html in life_pages(CLOUDS).items():
        (made / f"{name}.html").write_text(html, "utf-8")
    return made


@pytest.fixture(scope="module")
def chromium(folder):
    if shutil.which("chromium") is None:
        pytest.skip("needs Debian's package chromium")
    with browser(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def axe() -> str:
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("needs axe-core-python")
    return (Path(found.origin).parent / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_accessible_and_asks_for_nothing(chromium: Browser, folder, axe, kind, view):
    size, dark = VIEWS[view]
    file = folder / f"{kind}.html"
    chromium.open(file, size, dark=dark)
    picture = folder / f"{kind} {view}.png"
    chromium.picture(picture)
    print(f"{kind}, {view}: {picture}")
    assert chromium.requests() == [file.as_uri()] and chromium.complaints() == []
    assert chromium.run(WIDER) <= 0, "wide tables scroll by themselves"
    chromium.run(axe)
    assert chromium.run(AXE) == []


def test_axe_finds_what_is_wrong(chromium: Browser, folder, axe):
    """A check that finds nothing anywhere would be worth nothing."""
    wrong = folder / "wrong.html"
    html = (folder / "compare.html").read_text("utf-8").replace("--quiet: #59616b", "--quiet: #d9d9d9")
    wrong.write_text(html, "utf-8")
    chromium.open(wrong)
    chromium.run(axe)
    assert any("color-contrast" in line for line in chromium.run(AXE))


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("kind", KINDS)
def test_a_word_is_explained_on_focus_within_the_window(chromium: Browser, folder, kind, size):
    chromium.open(folder / f"{kind}.html", size)
    count = chromium.run("document.querySelectorAll('.term').length")
    assert count >= 5
    for place in range(count):
        chromium.run(ONE_TERM % place)
        tip = chromium.run(TIP)
        assert tip is not None and len(tip["text"]) > 20
        assert tip["left"] >= 0 and tip["right"] <= tip["width"], tip


def test_the_keyboard_reaches_words_and_wide_tables(chromium: Browser, folder):
    chromium.open(folder / "report.html", PHONE)
    seen = []
    for _ in range(40):
        chromium.press("Tab", 9)
        seen.append(chromium.run(FOCUSED))
    assert seen[0] == "skip" and {"term", "scroll", "A"} <= set(seen)
    chromium.run("document.querySelector('#attempts .scroll').focus()")
    for _ in range(5):
        chromium.press("ArrowRight", 39)
    chromium.run("new Promise(resolve => setTimeout(resolve, 500))")
    assert chromium.run("document.querySelector('#attempts .scroll').scrollLeft") > 0


@pytest.mark.parametrize("kind", KINDS)
def test_on_paper(chromium: Browser, folder, kind):
    chromium.open(folder / f"{kind}.html", dark=True, media="print")
    assert chromium.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert chromium.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    paper = folder / f"{kind}.pdf"
    chromium.pdf(paper)
    print(f"{kind} on paper: {paper}")
    assert paper.read_bytes().startswith(b"%PDF") and paper.stat().st_size > 20_000


def test_names_of_runs_are_isolated_text(chromium: Browser, folder):
    chromium.open(folder / "report.html")
    assert chromium.run("document.querySelectorAll('script').length") == 0
    assert "deepest, dropout" in chromium.run("document.body.innerText")
