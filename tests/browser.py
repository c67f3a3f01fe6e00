"""A real Chromium for pages; tests skip where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A Playwright browser, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser: Any, path: Path, **options: Any) -> Iterator[Any]:
    """A page from a file, which must neither fail, complain nor ask for anything else."""
    context = browser.new_context(**options)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(f"{error}"))
    page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
    page.on("request", lambda request: wrong.append(request.url))
    try:
        page.goto(path.as_uri())
        yield page
    finally:
        context.close()
    wrong = [text for text in wrong if not text.startswith(("data:", path.as_uri()))]
    assert wrong == []
