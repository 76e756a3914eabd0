"""A real browser: Playwright's Chromium, or the one that HARNESS_CHROMIUM names."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 120_000
"""Milliseconds that are waited for a page, not Playwright's 5 or 30 seconds, in which a busy machine is not done."""


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A running Chromium; without one the test is skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("HARNESS_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=named, args=["--no-sandbox", "--no-zygote"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium here: {str(error).splitlines()[0]}")
        yield found
        found.close()


def expect(found: Any) -> Any:
    """What is expected of a locator, waited for: a browser draws, closes and navigates when it comes to it.

    Not ``wait_for_function``, whose second look the pages' policy forbids.
    """
    from playwright import sync_api

    sync_api.expect.set_options(timeout=PATIENCE)
    return sync_api.expect(found)


class Opened:
    """A page that was opened, and everything that went wrong or over the network; of one that a server of ours has
    (its address is text), whatever was asked of others."""

    def __init__(self, browser: Any, path: Path | str, width: int = 1280, scheme: str = "light") -> None:
        self.trouble: list[str] = []
        address = path if isinstance(path, str) else path.as_uri()
        self._known = ("file:", "data:") if isinstance(path, Path) else ("data:", address.partition("#")[0])
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.goto(address)

    def _requested(self, url: str) -> None:
        if not url.startswith(self._known):
            self.trouble.append(f"loaded {url}")

    def status(self) -> Any:
        """The locator of what is said of the prompts that are shown."""
        return self.page.locator("#prompt-status")
