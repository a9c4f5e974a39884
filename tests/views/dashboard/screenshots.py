"""Takes screenshots of the dashboard. Run by ``scripts/screenshots``."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from pathlib import Path

from ocm_wsgi.simulator import Simulator
from tests.conftest import start_service
from tests.views.dashboard.browser import chromium
from tests.views.dashboard.month import seed

OWNER = "sk-ocm-root-0123456789abcdef"
PAGES = {"overview": "", "turns": "turns", "users": "users", "user": "users/alice", "mine": "mine", "audit": "audit"}
#: The pages shown in the documentation; the others are for review.
SHOWN = ("overview", "users")


def main(folder: Path, *, everything: bool) -> None:
    """Save the screenshots in a folder."""
    os.environ.setdefault("HOME", "/")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, Simulator() as simulator:
        place = Path(name)
        users = [{"name": "root", "token": OWNER, "admin": True}]
        with start_service(simulator, place / "full", user_entries=users, workers=1) as service:
            seed(service.state_path)
            pages = PAGES if everything else {page: PAGES[page] for page in SHOWN}
            take(service.url, folder, place / "p1", pages, OWNER, full=everything)
        if everything:
            with start_service(simulator, place / "empty", user_entries=[], workers=1) as service:
                empty = {f"empty-{page}": PAGES[page] for page in ("overview", "turns", "users", "audit")}
                take(service.url, folder, place / "p2", empty, None, full=True)


def take(url: str, folder: Path, profile: Path, pages: dict[str, str], token: str | None, *, full: bool) -> None:
    """Take a screenshot of each page in both widths and both colour schemes.

    :param full: whether to capture the whole page instead of one screen.
    """
    with chromium(profile) as driver:
        if token:
            driver.get(f"{url}/ocm/")
            driver.find_element("name", "bearer_token").send_keys(token)
            driver.find_element("css selector", "main button").click()
        for scheme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            for width, height in ((1400, 1000), (390, 844)):
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
                for page, target in pages.items():
                    driver.get(f"{url}/ocm/{target}")
                    wide = driver.execute_script("return document.documentElement.scrollWidth")
                    assert wide <= width, f"{page} is {wide} wide on a screen of {width}"
                    picture = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": full})
                    data = base64.b64decode(picture["data"])
                    (folder / f"{page}-{width}-{scheme}.png").write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]), everything="--all" in sys.argv)
