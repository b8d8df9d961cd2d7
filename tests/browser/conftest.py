"""The browser that tests of the pages share, started once for each module."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.viewing import Site

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def browser(site: Site) -> Iterator[Any]:
    """A headless Chromium: the machine's, or else the one that Playwright brought.

    Started after *site*: in its thread, no other event loop can run from then on.
    """
    from playwright.sync_api import Error, sync_playwright

    installed = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=installed, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"no Chromium can be started here: {error.message.splitlines()[0]}")
        yield started
        started.close()
