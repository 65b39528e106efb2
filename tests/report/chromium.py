"""Chromium for tests: the Debian package, driven by Playwright; and what a page did.

Playwright's own browsers are not downloaded. A driver holds an event loop of its own,
so that it has to be stopped before other tests run theirs.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.debian import install_packages

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PACKAGES = ("chromium", "fonts-dejavu-core")


class ChromiumMissing(Exception):
    """Chromium isn't here and can't be installed; says why."""


def install() -> str:
    """Path of the browser; its package is installed unless there is one."""
    if found := next(filter(None, map(shutil.which, _NAMES)), None):
        return found
    install_packages(_PACKAGES, ChromiumMissing)
    if not (found := shutil.which(_PACKAGES[0])):
        raise ChromiumMissing("the package chromium is installed, but not found")
    return found


@contextmanager
def started() -> Iterator[Browser]:
    """A headless browser."""
    path = install()
    with sync_playwright() as playwright:
        # Its sandbox takes rights that containers rarely give; pages are our own.
        arguments = ["--no-sandbox"]
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visit:
    """A page that is open, and all that it said or asked for since."""

    page: Page
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def visit(
    browser: Browser,
    file: Path,
    *,
    theme: str = "light",
    width: int = 1280,
    script: bool = True,
    touch: bool = False,
) -> Iterator[Visit]:
    """Open a file, without a network; `width` in CSS pixels."""
    context = browser.new_context(
        viewport={"width": width, "height": 900},
        color_scheme=theme,
        java_script_enabled=script,
        has_touch=touch,
        offline=True,
    )
    page = context.new_page()
    seen = Visit(page)
    page.on("console", lambda message: seen.messages.append(message.text))
    page.on("pageerror", lambda error: seen.messages.append(str(error)))
    page.on("request", lambda request: seen.requests.append(request.url))
    page.goto(file.as_uri())
    yield seen
    context.close()
