"""Headless Chromium for tests and screenshots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service


@contextmanager
def chromium(
    profile: Path, *, width: int = 1400, height: int = 900, scripts: bool = True
) -> Iterator[webdriver.Chrome]:
    """Start Chromium with its own profile.

    :param scripts: whether pages may run JavaScript.
    """
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or "chromium"
    for argument in (
        *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-background-networking", "--disable-component-update", "--no-first-run", "--no-proxy-server"),
        *("--lang=en-GB", f"--user-data-dir={profile}", f"--window-size={width},{height}"),
    ):
        options.add_argument(argument)
    if not scripts:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def log_of(driver: webdriver.Chrome, name: str) -> list[dict[str, Any]]:
    """Return the entries of one of the browser's logs since the last call."""
    entries: list[dict[str, Any]] = driver.get_log(name)  # type: ignore[no-untyped-call]  # selenium has no type for it
    return entries


def requested(driver: webdriver.Chrome) -> list[str]:
    """Return the URLs that pages have requested since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in log_of(driver, "performance")]
    return [
        message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"
    ]
