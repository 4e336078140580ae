"""A page is one file, says what its charts show, and can be read on a telephone and in the dark."""

import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree

import pytest

from tools.kit import pages
from tools.kit.charts import Chart, crosses, look, name_in_ink, save, tidy
from tools.kit.tables import Table

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def draw(axes):
    axes.plot([1, 10, 100], [3, 2, 1], **look(0), label="a line")
    crosses(axes, [10], look(1)["color"], label=None)
    name_in_ink(axes, "x", "runs that diverged")
    axes.set(xlabel="batch size", xscale="log")
    tidy(axes)


CHARTS = [Chart(f"Loss {name}", f"The loss <falls> in {name}.", draw) for name in ("A", "B")]
TABLE = Table([f"column {number}" for number in range(14)], [["cell"] * 14] * 3, title="Wide")


@pytest.fixture(scope="module")
def page():
    return pages.page(
        "A <b> title", pages.bullets(["one & two"]), pages.pictures(CHARTS), TABLE.html(),
        pages.pairs({"command": "python x.py " + "x" * 200}), pages.small_print("commit abc"),
    )  # fmt: skip


def test_a_page_is_whole_escapes_text_and_fetches_nothing(page):
    assert "<h1>A &lt;b&gt; title</h1>" in page and "one &amp; two" in page
    assert "<script" not in page and "src=" not in page and "@import" not in page
    assert not re.findall(r'(?:href|url)[=(]"?(?!#)[^")]+', page)


def test_every_chart_has_a_title_and_says_what_is_to_be_seen(page):
    drawings = re.findall(r"(?s)<svg .*?</svg>", page)
    assert len(drawings) == 2
    for drawing, chart in zip(drawings, CHARTS, strict=True):
        root = ElementTree.fromstring(drawing)
        assert (root.get("role"), root.get("aria-label")) == ("img", chart.alt)
        assert root.find("{http://www.w3.org/2000/svg}title").text == chart.title


def test_the_names_in_two_charts_differ_and_are_found(page):
    names = re.findall(r'\bid="([^"]+)"', page)
    assert len(names) == len(set(names)) > 20
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page))
    assert used and {first or second for first, second in used} <= set(names)


def test_text_takes_the_ink_of_the_page_and_the_ground_shows(page):
    assert page.count("currentColor") > 20 and "#010203" not in page
    assert "fill: #000000" not in page and "#ffffff" not in page


def test_charts_stand_beside_each_other_in_a_picture(tmp_path):
    assert save(CHARTS, tmp_path / "x.png").stat().st_size > 10_000


MEASURE = """<pre id="found"></pre>
<iframe id="page" style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<script>addEventListener("load", () => {{
  const inside = document.getElementById("page").contentDocument, style = getComputedStyle(inside.body)
  const boxes = [...inside.querySelectorAll("figure")].map(each => each.getBoundingClientRect())
  const table = inside.querySelector(".table"), text = inside.querySelector("svg text")
  document.getElementById("found").textContent = JSON.stringify({{
    wide: inside.documentElement.scrollWidth, beside: boxes[0].top === boxes[1].top,
    scrolls: table.scrollWidth > table.clientWidth, height: text.getBoundingClientRect().height,
    paper: style.backgroundColor, ink: style.color, drawn: getComputedStyle(text).fill }})
}})</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH to look at the page with")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser_nothing_is_wider_than_the_screen_and_the_dark_is_dark(page, tmp_path, width, scheme):
    (tmp_path / "x.html").write_text(MEASURE.format(width=width, page=html.escape(page)))
    options = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000", "--dump-dom"),
        f"--user-data-dir={tmp_path}/profile",
        f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
    ]
    looked = subprocess.run(
        [CHROMIUM, *options, (tmp_path / "x.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', looked.stdout)[1]))
    assert found["wide"] <= width
    assert (found["beside"], found["scrolls"]) == ((False, True) if width == 390 else (True, False))
    assert found["height"] >= 9, "text in a chart is too small to read"
    light = [sum(map(int, re.findall(r"\d+", found[key])[:3])) for key in ("paper", "ink", "drawn")]
    assert light[0] > 600 > 300 > light[1] if scheme == "light" else light[0] < 150 < 500 < light[1]
    assert light[2] == light[1]
