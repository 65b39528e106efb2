"""The pages in a real browser: report, comparison, inspection, contact sheet.

Covers scripts, requests, keyboard, pointer and touch, themes, widths, print, and axe's
accessibility rules. Not covered: whether it looks good. Screenshots are left in the
test's temporary folder, or in AREAL_CPPO_SCREENSHOTS.
"""

import os
import re
from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")

from axe_playwright_python.sync_playwright import Axe

from areal_cppo.report.html import write_report
from areal_cppo.report.samples import TokenView
from tests.report import chromium
from tests.report.pages import (
    DESKTOP,
    PAGES,
    PHONE,
    long_response,
)

pytestmark = pytest.mark.browser

# Pictures whose sides relate otherwise than in the file, on all that is unfolded.
DISTORTED = """all => all.filter(image => {
  const box = image.getBoundingClientRect(), style = getComputedStyle(image);
  const border = parseFloat(style.borderTopWidth) * 2;
  const drawn = (box.width - border) / (box.height - border);
  const own = image.naturalWidth / image.naturalHeight;
  return box.width && style.objectFit != 'contain' && Math.abs(drawn / own - 1) > .02;
}).map(image => image.alt)"""


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_quiet_self_contained_and_fits(
    browser, pages, tmp_path, name, theme, width
):
    """No message of a script, no request, no sideways scrolling, no distorted picture;
    a picture of all is kept."""
    with chromium.visit(browser, pages[name], theme=theme, width=width) as seen:
        folder = Path(os.environ.get("AREAL_CPPO_SCREENSHOTS") or tmp_path)
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / f"{name}-{theme}-{width}.png"
        seen.page.screenshot(path=kept, full_page=True)
        assert kept.stat().st_size > 10_000
        assert seen.messages == []
        assert [url for url in seen.requests if not url.startswith("data:")] == [
            pages[name].as_uri()
        ]
        needed = seen.page.evaluate("document.documentElement.scrollWidth")
        assert needed <= width
        broken = seen.page.locator("img").evaluate_all(
            "all => all.filter(image => !image.naturalWidth).map(image => image.alt)"
        )
        assert broken == []
        assert seen.page.locator("img").evaluate_all(DISTORTED) == []


@pytest.mark.parametrize(("theme", "width"), [("light", PHONE), ("dark", DESKTOP)])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(browser, pages, name, theme, width):
    """No violation of WCAG 2.2 A and AA or of axe's best practices; all is unfolded."""
    with chromium.visit(browser, pages[name], theme=theme, width=width) as seen:
        seen.page.locator("details").evaluate_all(
            "all => all.forEach(details => details.open = true)"
        )
        rules = {"target-size": {"enabled": True}}
        found = Axe().run(seen.page, options={"rules": rules})
        said = [
            f"{violation['id']}: {node['html'][:120]}: {node['failureSummary'][:300]}"
            for violation in found.response["violations"]
            for node in violation["nodes"][:2]
        ]
        assert said == []


def numbers(page, response: int = 0) -> dict[str, str]:
    """What the readout of a response shows, by slot."""
    slots = page.locator(".response").nth(response).locator("[data-slot]")
    return dict(
        slots.evaluate_all("all => all.map(s => [s.dataset.slot, s.textContent])")
    )


def row(page, at: int, response: int = 0) -> dict[str, str]:
    """The same numbers out of the table, of token `at` (from 0)."""
    cells = (
        page.locator(".response")
        .nth(response)
        .locator(".numbers tbody tr")
        .nth(at)
        .locator("[data-of]")
    )
    return dict(
        cells.evaluate_all("all => all.map(c => [c.dataset.of, c.textContent])")
    )


def current(page) -> int:
    """Which token of the first response has the focus; -1 for none."""
    return page.evaluate(
        "[...document.querySelectorAll('.response')[0].querySelectorAll('.token')]"
        ".indexOf(document.activeElement)"
    )


def shows(page, at: int) -> None:
    """The readout shows token `at`, number by number as the table has it."""
    shown, listed = numbers(page), row(page, at)
    assert {key: shown[key] for key in listed if key in shown} == {
        key: value for key, value in listed.items() if key in shown
    }
    assert shown["at"] == str(at + 1)


def test_readout_begins_at_the_highest_gain(browser, pages):
    with chromium.visit(browser, pages["inspection"]) as seen:
        tokens = long_response()
        best = max(range(len(tokens)), key=lambda at: tokens[at].gain)
        shows(seen.page, best)
        shown = numbers(seen.page)
        assert (
            shown["negative_probability"] == f"{tokens[best].negative_probability:.3f}"
        )
        assert shown["anchor_divergence"] == "\u2013"
        assert shown["selected"] == "perception token"


def test_keyboard_reaches_the_numbers_of_every_token(browser, pages):
    """Tab enters the tokens once and leaves them; arrows, Home and End move within."""
    with chromium.visit(browser, pages["inspection"]) as seen:
        page, press = seen.page, seen.page.keyboard.press
        for _ in range(20):
            press("Tab")
            if current(page) >= 0:
                break
        press("Home")
        assert current(page) == 0
        shows(page, 0)
        press("ArrowRight")
        assert current(page) == 1
        shows(page, 1)
        press("ArrowDown")  # the first perception token, " 7"
        assert current(page) == 5
        shows(page, 5)
        press("ArrowDown")
        assert current(page) == 8
        press("ArrowUp")
        press("ArrowUp")  # there is none before: it stays
        assert current(page) == 5
        press("ArrowLeft")
        assert current(page) == 4
        assert numbers(page)["selected"] == ""
        press("End")
        assert current(page) == 129
        shows(page, 129)
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        press("Tab")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
        press("Enter")
        assert page.locator("table.numbers").first.is_visible()
        press("Shift+Tab")
        assert current(page) == 129


def test_pointer_and_touch_show_the_numbers(browser, pages):
    with chromium.visit(browser, pages["inspection"]) as seen:
        seen.page.locator(".token").nth(17).hover()
        shows(seen.page, 17)
    with chromium.visit(browser, pages["inspection"], width=PHONE, touch=True) as seen:
        seen.page.locator(".token").nth(25).tap()
        shows(seen.page, 25)


def test_readout_of_a_long_response_stays_in_sight(browser, pages):
    with chromium.visit(browser, pages["inspection"], width=PHONE) as seen:
        seen.page.locator(".token").nth(60).scroll_into_view_if_needed()
        box = seen.page.locator(".readout").first.bounding_box()
        assert 0 < box["y"] and box["y"] + box["height"] <= 901


def test_responses_of_the_report_have_readouts_of_their_own(browser, pages):
    with chromium.visit(browser, pages["report"]) as seen:
        before = numbers(seen.page, 1)
        tokens = seen.page.locator(".response").first.locator(".token")
        tokens.nth(2).focus()
        shows(seen.page, 2)
        assert numbers(seen.page, 1) == before
        # A response without the newer numbers has no empty rows for them.
        assert "anchor_entropy" in before and "anchor_probability" not in before


def test_a_step_is_unfolded_by_keyboard_and_its_tokens_reached(browser, pages):
    with chromium.visit(browser, pages["report"]) as seen:
        page = seen.page
        steps = page.locator("details.step")
        opened = "all => all.map(step => step.open)"
        assert steps.evaluate_all(opened) == [False, True]
        steps.first.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert steps.evaluate_all(opened) == [True, False]  # one at a time
        page.keyboard.press("Tab")  # its one stop: the token of highest gain
        shown = "[...document.activeElement.closest('.response')"
        shown += ".querySelectorAll('[data-slot]')].map(s => s.textContent)"
        assert "perception token" in page.evaluate(shown)
        page.keyboard.press("Home")
        name = page.evaluate("document.activeElement.getAttribute('aria-label')")
        assert name == "7, not gated"


def test_without_scripts_the_table_remains(browser, pages):
    with chromium.visit(browser, pages["inspection"], script=False) as seen:
        assert not seen.page.locator(".readout").first.is_visible()
        seen.page.locator("summary").first.click()
        assert seen.page.locator("table.numbers").first.is_visible()


def test_print_is_light_and_without_what_only_a_pointer_can_use(browser, pages):
    with chromium.visit(browser, pages["inspection"], theme="dark") as seen:
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert not seen.page.locator(".readout").first.is_visible()
        assert not seen.page.locator(".keys").first.is_visible()
        ink = seen.page.evaluate("getComputedStyle(document.body).color")
        assert ink == "rgb(31, 35, 40)"
        fill = seen.page.locator(".chosen .piece").first
        color = fill.evaluate("node => getComputedStyle(node).backgroundColor")
        assert color != "rgba(0, 0, 0, 0)"
        # With its table unfolded the page is no wider than A4 between its margins.
        seen.page.locator("details").first.evaluate("node => node.open = true")
        seen.page.set_viewport_size({"width": 718, "height": 1000})
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 718
        assert len(seen.page.pdf(format="A4")) > 10_000


# Of each picture and drawing the size of its smallest letters, in CSS pixels.
def test_policy_refuses_every_network(browser, pages):
    """Even a page that were made to ask for something could not."""
    with chromium.visit(browser, pages["report"]) as seen:
        refused = seen.page.evaluate(
            """() => new Promise(done => {
                 document.addEventListener(
                   'securitypolicyviolation', event => done(event.effectiveDirective));
                 const image = new Image();
                 image.src = 'http://192.0.2.1/x.png';
               })"""
        )
        assert refused == "img-src"


def test_hostile_tokens_do_nothing(browser, run_folder):
    evil = "<img src=x onerror=\"document.title='taken'\">\u202e"
    tokens = [TokenView(evil, 0.5, 0.1, 0.2, True, evil)]
    run_folder.metrics(1).samples(1, tokens=tokens, title=evil)
    with chromium.visit(browser, write_report(run_folder.folder)) as seen:
        assert "taken" not in seen.page.title()
        assert re.match("<img src=x", seen.page.locator(".token").first.text_content())
        assert seen.messages == []
