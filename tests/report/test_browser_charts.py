"""Charts of the pages in a real browser: legible, and telling their values."""

import json

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from areal_cppo.report.page import number
from tests.report import chromium
from tests.report.pages import DESKTOP, PHONE

pytestmark = pytest.mark.browser

LETTERS = """() => [...document.querySelectorAll('.chart img')].map(image => {
  const svg = atob(image.currentSrc.split(',')[1]);
  const scale = image.clientWidth / svg.match(/viewBox="0 0 ([\\d.]+)/)[1];
  const sizes = [...svg.matchAll(/font(?:-size)?: [^;"]*?([\\d.]+)px/g)];
  return scale * Math.min(...sizes.map(size => size[1]));
}).concat([...document.querySelectorAll('svg.whiskers text')].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))"""


@pytest.mark.parametrize("width", [PHONE, 900, DESKTOP])
@pytest.mark.parametrize("name", ["report", "compare"])
def test_letters_of_charts_can_be_read(browser, pages, name, width):
    with chromium.visit(browser, pages[name], width=width) as seen:
        sizes = seen.page.evaluate(LETTERS)
        assert len(sizes) >= 9 and 10 <= min(sizes) and max(sizes) < 20


def read(page, chart: int) -> list[str]:
    """What a chart tells: the step, then label and value of each curve."""
    return page.locator(".read").nth(chart).locator("strong,span").all_text_contents()


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_charts_tell_their_values(browser, pages, full_folder, width):
    """To a pointer, to touch and to the keyboard; the same as was recorded."""
    records = (full_folder.folder / "metrics.jsonl").read_text().splitlines()
    losses = [number(json.loads(line)["cpl_loss"], "nats") for line in records]
    touch = width == PHONE
    with chromium.visit(browser, pages["report"], width=width, touch=touch) as seen:
        page = seen.page
        reach = page.locator(".reach").nth(1)
        before = page.locator("figure").nth(1).bounding_box()["height"]
        assert read(page, 1)[0] == "Step 12"
        box = reach.bounding_box()
        (reach.tap if touch else reach.hover)(position={"x": box["width"] / 2, "y": 9})
        step = int(read(page, 1)[0].removeprefix("Step "))
        assert step in (6, 7)
        assert read(page, 1)[1] == f"CPL {losses[step - 1]}"
        assert page.locator("figure").nth(1).bounding_box()["height"] == before
        reach.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert read(page, 1)[:2] == ["Step 2", f"CPL {losses[1]}"]
        assert reach.get_attribute("aria-valuetext").startswith(
            f"Step 2, CPL {losses[1]}, positive"
        )
        page.keyboard.press("End")
        assert read(page, 1)[0] == "Step 12"
        # The line stands where the picture has the step, within its panels.
        line, box = (
            page.locator(x).nth(1).bounding_box() for x in (".reach i", ".reach")
        )
        assert box["x"] + 0.9 * box["width"] < line["x"] <= box["x"] + box["width"]
        assert not page.locator(".reach i").nth(0).is_visible()


def test_contents_lead_to_every_section(browser, pages):
    with chromium.visit(browser, pages["report"]) as seen:
        page = seen.page
        links = page.locator("nav a").evaluate_all("all => all.map(a => a.hash)")
        ids = page.locator("main h2").evaluate_all("all => all.map(h => '#' + h.id)")
        assert links == ids and len(ids) == 5
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.url.endswith("#course")
        assert abs(page.locator("#course").bounding_box()["y"]) < 60
        page.emulate_media(media="print")
        for what in ("nav", ".reach", ".hint"):
            assert not page.locator(what).first.is_visible()


def test_without_scripts_charts_remain(browser, pages):
    with chromium.visit(browser, pages["report"], script=False) as seen:
        assert seen.page.locator(".chart img").first.is_visible()
        assert seen.page.locator(".reach").count() == 0
        assert not seen.page.locator(".hint").is_visible()
