"""The cards of notebooks in a real browser: readable on light and dark pages, and within a phone's width."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from tests.unit.test_shown import SHOWN

pytestmark = pytest.mark.chaos

CARDS = {name: value._repr_html_() for name, value in SHOWN.items() if hasattr(value, "_repr_html_")}
# As JupyterLab has them, light and dark; the rules for tables are its own, too.
THEMES = {"light": ("#ffffff", "#212121"), "dark": ("#111111", "#ffffff")}
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ background: {background}; color: {text}; font: 14px sans-serif; margin: 8px }}
table {{ border-collapse: collapse; table-layout: fixed; font-size: 12px }}
td, th {{ text-align: right; padding: .5em; max-width: none; font-weight: bold }}
tr:nth-child(odd) {{ background: {text} }}
details {{ display: block }}
</style>{cards}<script>
for (const each of document.querySelectorAll("details")) each.open = true;
const rgb = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {{
  const line = [r, g, b].map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * line[0] + 0.7152 * line[1] + 0.0722 * line[2];
}};
const contrast = (one, two) => {{
  const [dark, bright] = [light(one), light(two)].sort((a, b) => a - b);
  return (bright + 0.05) / (dark + 0.05);
}};
const page = rgb(getComputedStyle(document.body).backgroundColor);
const texts = [], bars = [], painted = [];
for (const card of document.querySelectorAll(".carbon-otel")) {{
  for (const each of card.querySelectorAll("*")) {{
    const style = getComputedStyle(each), background = rgb(style.backgroundColor);
    let opacity = 1;
    for (let up = each; up !== document.body; up = up.parentElement) opacity *= getComputedStyle(up).opacity;
    const own = [...each.childNodes].filter(n => n.nodeType === 3 && n.textContent.trim()).length;
    if (own) {{
      const color = rgb(style.color).slice(0, 3).map((c, i) => c * opacity + page[i] * (1 - opacity));
      texts.push(contrast(color, page));
      if (background.length < 4 || background[3] > 0) painted.push(each.outerHTML);
    }} else if (background.length < 4) bars.push(contrast(background, page));
    if (each.tagName === "TR" && (background.length < 4 || background[3] > 0)) painted.push("a row");
  }}
}}
const wide = [...document.querySelectorAll(".carbon-otel, .carbon-otel *")]
  .filter(each => each.getBoundingClientRect().right > innerWidth + 1).map(each => each.outerHTML.slice(0, 200));
document.body.dataset.found = JSON.stringify({{
  cards: document.querySelectorAll(".carbon-otel").length, text: Math.min(...texts), bar: Math.min(...bars),
  painted, wide
}});
</script>"""


def look(folder, theme, width):
    """What the script of the page has found; the screenshot is in the folder."""
    background, text = THEMES[theme]
    file = folder / f"{theme}-{width}.html"
    file.write_text(PAGE.format(background=background, text=text, cards="".join(CARDS.values())), "utf-8")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},6000", "--virtual-time-budget=5000", "--dump-dom"]
    command += [f"--user-data-dir={folder / 'browser'}", f"--screenshot={file.with_suffix('.png')}"]
    document = subprocess.run(
        [*command, file.as_uri()],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=240,
        check=True,
    ).stdout
    print(file.with_suffix(".png"))
    found = re.search(r'data-found="([^"]*)"', document)
    assert found, document[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [1000, 500])
def test_cards_are_readable(theme, width, tmp_path):
    if shutil.which("chromium") is None:
        pytest.skip("needs Debian's package chromium")
    found = look(tmp_path, theme, width)
    assert found["cards"] == len(CARDS)
    # WCAG 2.2: 4.5 for text (1.4.3), 3 for graphics (1.4.11).
    assert found["text"] >= 4.5 and found["bar"] >= 3, found
    assert not found["painted"] and not found["wide"], found
