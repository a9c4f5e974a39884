"""The service below a path prefix: API, WebSocket, sign-in and pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest

from ocm_wsgi.simulator import Plan, Simulator
from tests.clients.codex import run_codex
from tests.clients.nginx import Nginx, run_nginx
from tests.conftest import ALICE, RunningService, start_service
from tests.views.dashboard.test_dashboard import PAGES, Browser

# The owner's changes to deploy/nginx.conf.
EDITS = {
    "location / {\n        # Without a path, so that the request target is passed on exactly as sent.\n"
    "        proxy_pass http://ocm;": "location /codex/ {\n        proxy_pass http://ocm/;",
    "location /ocm/ {\n        client_max_body_size 64k;\n        proxy_pass http://ocm;": (
        "location /codex/ocm/ {\n        client_max_body_size 64k;\n        proxy_pass http://ocm/ocm/;"
    ),
    "location = /ocm/v1/check/body {\n        proxy_pass http://ocm;": (
        "location = /codex/ocm/v1/check/body {\n        proxy_pass http://ocm/ocm/v1/check/body;"
    ),
    'X-Forwarded-Prefix "";': "X-Forwarded-Prefix /codex;",
    "location = /metrics {": "location = /codex/metrics {",
}
_LINK = re.compile(r'(?:href|src|action)="([^"#]+)"')


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Run a service with an admin."""
    folder = tmp_path_factory.mktemp("prefix") / "service"
    users = [{"name": "alice", "token": ALICE, "admin": True}]
    with Simulator() as simulator, start_service(simulator, folder, user_entries=users) as started:
        yield started


@pytest.fixture(scope="module")
def nginx(running: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Run an nginx that serves it below a path prefix."""
    with run_nginx(running.url.removeprefix("http://"), tmp_path_factory.mktemp("nginx"), edits=EDITS) as started:
        yield started


@pytest.fixture
def browser(nginx: Nginx) -> Iterator[Browser]:
    """Return a browser that trusts the site, not yet signed in."""
    with Browser(f"{nginx.url}/codex") as opened:
        opened.session.verify = str(nginx.authority)
        yield opened


@pytest.mark.parametrize("websockets", [False, True], ids=["sse", "websocket"])
def test_codex(running: RunningService, nginx: Nginx, tmp_path: Path, websockets: bool) -> None:
    """Codex completes a turn below the prefix, over SSE and over WebSocket."""
    running.simulator.clear()
    running.simulator.plan(Plan(text="Hello below a path."))
    base_url = f"{nginx.url}/codex/v1"
    result = run_codex(base_url, ALICE, "hi", home=tmp_path, websockets=websockets, authority=nginx.authority)
    assert (result.returncode, result.stdout.strip()) == (0, "Hello below a path."), result.stderr
    assert {seen.target for seen in running.simulator.requests} == {"/backend-api/codex/responses"}
    assert [turn.transport for turn in running.simulator.turns] == ["websocket" if websockets else "sse"]


def test_pages(browser: Browser) -> None:
    """After signing in every page loads, and all its links lead to existing pages below the prefix."""
    refused = browser.get()
    assert refused.url == f"{browser.url}sign-in"
    assert browser.sign_in(ALICE).url == browser.url
    targets = set()
    for page in PAGES:
        answer = browser.get(page)
        assert (answer.status_code, answer.url) == (200, urljoin(browser.url, page))
        targets |= {urljoin(answer.url, link) for link in _LINK.findall(answer.text) if not link.startswith("data:")}
    assert any(".css" in target for target in targets)
    assert [target for target in targets if not target.startswith(browser.url)] == []
    for target in targets:
        assert browser.session.get(target, timeout=20).status_code in {200, 405}, target


def test_address_for_clients(browser: Browser, nginx: Nginx) -> None:
    """The client configuration that is shown includes the prefix."""
    browser.sign_in(ALICE)
    assert "https://localhost/codex/v1" in browser.get("mine").text


def test_nothing_outside_the_prefix(nginx: Nginx, browser: Browser) -> None:
    """Paths outside the prefix are not served, and metrics stay blocked below it."""
    for target in ("/v1/models", "/ocm/", "/codex/metrics", "/codex/x/../metrics", "/codex/%6detrics"):
        assert browser.session.get(nginx.url + target, timeout=20).status_code == 404
