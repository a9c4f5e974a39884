"""The dashboard in a real browser, with a real service."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException, WebDriverException
from selenium.webdriver.common.by import By

from ocm_wsgi.simulator import Gate, Plan
from tests.conftest import REPOSITORY, RunningService, ServiceFactory
from tests.views.dashboard.browser import chromium, log_of, requested
from tests.views.dashboard.month import seed

AXE = REPOSITORY / ".cache/axe/node_modules/axe-core/axe.min.js"
ROOT = "sk-ocm-root-0123456789abcdef"
USERS = [{"name": "root", "token": ROOT, "admin": True}]
PAGES = ("", "turns", "users", "users/alice", "users/alice/remove", "mine", "audit")
DEADLINE_SECONDS = 60
POLL_SECONDS = 0.1


def press(driver: webdriver.Chrome, text: str) -> None:
    """Press a button or follow a link, found by its text."""
    path = f"//*[(self::button or self::a) and normalize-space()='{text}']"
    until(lambda: bool(driver.find_elements(By.XPATH, path)))  # The page may still be loading.
    driver.find_element(By.XPATH, path).click()


def text(driver: webdriver.Chrome, selector: str = "main") -> str:
    """Return the visible text."""
    try:
        return driver.find_element(By.CSS_SELECTOR, selector).text
    except (NoSuchElementException, StaleElementReferenceException):
        return ""  # The page is being replaced by the next one.
    except WebDriverException as exc:
        if "does not belong to the document" not in str(exc.msg):
            raise
        return ""  # The same, as reported by ChromeDriver's inspector.


def sign_in(driver: webdriver.Chrome, running: RunningService, token: str) -> None:
    """Sign in on the sign-in page."""
    driver.get(f"{running.url}/ocm/")
    driver.find_element(By.NAME, "bearer_token").send_keys(token)
    press(driver, "Sign in")
    until(lambda: bool(driver.find_elements(By.CSS_SELECTOR, ".who")))


def send_turn(base_url: str, token: str) -> int:
    """Send a turn as a client does, and return the status."""
    with requests.Session() as session:
        session.trust_env = False
        turn = {"model": "gpt-5.5", "stream": True, "input": "hi"}
        headers = {"Authorization": f"Bearer {token}"}
        return session.post(f"{base_url}/responses", json=turn, headers=headers, timeout=20).status_code


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, for at most ``DEADLINE_SECONDS``."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(POLL_SECONDS)  # Each look at a page is work for three processes.


def require_quiet(driver: webdriver.Chrome, running: RunningService) -> None:
    """Require an empty console log and no requests to other hosts. The browser's internal pages are ignored."""
    assert [entry["message"] for entry in log_of(driver, "browser")] == []
    origins = {urlsplit(url).netloc for url in requested(driver) if url.startswith(("http", "ws"))}
    assert origins == {urlsplit(running.url).netloc}


@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False], ids=["with-scripts", "without-scripts"])
def test_life_of_a_user(service: ServiceFactory, tmp_path: Path, scripts: bool) -> None:
    """An owner adds a user, who sends a turn, is limited, refused and removed, and is signed out immediately."""
    running = service(user_entries=USERS)
    with (
        chromium(tmp_path / "owner", scripts=scripts) as owner,
        chromium(tmp_path / "user", scripts=scripts) as user,
    ):
        sign_in(owner, running, ROOT)
        until(lambda: "Next steps" in text(owner))
        press(owner, "Users")
        until(lambda: bool(owner.find_elements(By.NAME, "name")))
        owner.find_element(By.NAME, "name").send_keys("ann")
        press(owner, "Add user")
        until(lambda: text(owner, "#token") != "")
        token = text(owner, "#token")
        configuration = text(owner, "#codex")
        assert f'base_url = "{running.url}/v1"' in configuration
        copying = owner.find_elements(By.CSS_SELECTOR, "button[data-copy='codex']")
        assert [button.is_displayed() for button in copying] == [scripts]

        sign_in(user, running, token)
        until(lambda: "No turns yet." in text(user))
        base_url = configuration.partition('base_url = "')[2].partition('"')[0]
        assert send_turn(base_url, token) == 200
        press(owner, "Overview")
        until(lambda: "left" in text(owner))
        until(lambda: "ann" in text(owner))
        press(owner, "Turns")
        until(lambda: "gpt-5.5" in text(owner))
        user.refresh()
        until(lambda: "Latest turns" in text(user))

        owner.get(f"{running.url}/ocm/users/ann")
        owner.find_element(By.NAME, "limits").send_keys("1 request per month")
        press(owner, "Save")
        until(lambda: "Saved." in text(owner))
        assert send_turn(base_url, token) == 429
        user.refresh()
        until(lambda: "reached" in text(user))

        press(owner, "Remove …")
        press(owner, "Remove ann")
        until(lambda: text(owner, "h1") == "Users")
        assert send_turn(base_url, token) == 401
        user.refresh()
        until(lambda: user.current_url.endswith("/ocm/sign-in"))
        press(owner, "Audit")
        until(lambda: "removed a user" in text(owner))
        for driver in (owner, user):
            require_quiet(driver, running)


@pytest.mark.slow
def test_live_streams(service: ServiceFactory, tmp_path: Path) -> None:
    """An open stream appears without a reload, and disappears when it has ended."""
    running = service(user_entries=USERS)
    with chromium(tmp_path / "owner") as owner, requests.Session() as session:
        sign_in(owner, running, ROOT)
        until(lambda: "No requests in progress." in text(owner, "#live"))
        gate = Gate().after(1)
        running.simulator.default_plan = Plan(gate=gate)
        session.trust_env = False
        turn = {"model": "gpt-5.5", "stream": True, "input": "hi"}
        headers = {"Authorization": f"Bearer {ROOT}"}
        with session.post(f"{running.url}/v1/responses", json=turn, headers=headers, stream=True, timeout=20):
            until(lambda: "/v1/responses" in text(owner, "#live"))
            gate.release()
        until(lambda: "No requests in progress." in text(owner, "#live"))
        require_quiet(owner, running)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_accessibility(service: ServiceFactory, tmp_path: Path, width: int) -> None:
    """axe finds nothing serious on any page, in light and dark mode, and no page is wider than the screen."""
    running = service(user_entries=USERS)
    with chromium(tmp_path / "owner") as driver:
        driver.get(f"{running.url}/ocm/sign-in")
        seed(running.state_path, days=7)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        require_accessible(driver, "sign-in")
        sign_in(driver, running, ROOT)
        for scheme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            for page in PAGES:
                driver.get(f"{running.url}/ocm/{page}")
                require_accessible(driver, f"{page} {scheme}")
        require_quiet(driver, running)


def require_accessible(driver: webdriver.Chrome, page: str) -> None:
    """Require that axe finds no violation, and that the page is not too wide."""
    wide = driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0, page
    driver.execute_script(AXE.read_text())
    found = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")["violations"]
    serious = [
        (violation["id"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in found
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == [], page
