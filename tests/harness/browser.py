"""A headless Chromium, driven by playwright: Debian's, or whichever the user has in the PATH."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1200, 900


def chromium() -> str:
    """Where it is; a test that needs it is skipped where there is none."""
    found = os.environ.get("FEDSSH_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One browser for a file of tests. Root may not have Chromium's own sandbox; what it opens is ours."""
    path = chromium()
    with sync_playwright() as play:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = play.chromium.launch(executable_path=path, args=arguments)
        try:
            yield running
        finally:
            running.close()


class Opened:
    """A page that was opened from a disk, and what happened on it meanwhile.

    Attributes:
        page: For playwright.
        requests: The addresses that it asked for, its own left out.
        errors: What its scripts complained of.
    """

    def __init__(self, browser: Browser, file: Path, dark: bool = False) -> None:
        self.page: Page = browser.new_page(
            color_scheme="dark" if dark else "light", viewport={"width": WIDTH, "height": HEIGHT}
        )
        self.requests: list[str] = []
        self.errors: list[str] = []
        address = file.resolve().as_uri()
        self.page.on("request", lambda asked: self.requests.append(asked.url) if asked.url != address else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.goto(address)

    def checked(self) -> str:
        """What the page says once it has checked itself."""
        self.page.wait_for_function("() => globalThis.report?.check", timeout=60_000)
        return self.page.inner_text("#check")

    def close(self) -> None:
        """Close it."""
        self.page.close()
