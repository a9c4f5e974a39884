"""Web pages of other origins in a real browser, with a real service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver

from tests.conftest import ALICE, ServiceFactory
from tests.views.dashboard.browser import chromium

#: Sends a turn as a page does, and returns what the page may read.
SCRIPT = """
const [url, token, done] = arguments;
const turn = {model: "gpt-5.5", stream: true, input: "hi"};
const fields = {"Authorization": "Bearer " + token, "Content-Type": "application/json", "X-Stainless-Lang": "js"};
fetch(url, {method: "POST", headers: fields, body: JSON.stringify(turn)}).then(
    async (answer) => done([answer.status, await answer.text(), answer.headers.get("x-request-id")]),
    (error) => done([0, String(error), null]),
);
"""


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Return an empty page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@pytest.fixture
def origins() -> Iterator[list[str]]:
    """Serve pages of two origins on loopback."""
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Page) for _ in range(2)]
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield [f"http://127.0.0.1:{server.server_port}" for server in servers]
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def ask(driver: webdriver.Chrome, page: str, url: str, token: str) -> tuple[int, str, str | None]:
    """Let a page send a turn; return the status, the text and the request ID that it can read."""
    driver.get(page)
    answer: Any = driver.execute_async_script(SCRIPT, url, token)
    return (answer[0], answer[1], answer[2])


def test_pages_of_other_origins(service: ServiceFactory, origins: list[str], tmp_path: Path) -> None:
    """A page of an allowed origin reads streams, fields and errors; for another one the browser does not even ask."""
    allowed, other = origins
    running = service(allow_origins=[allowed], workers=1)
    url = f"{running.url}/v1/responses"
    with chromium(tmp_path / "profile") as driver:
        status, text, request_id = ask(driver, allowed, url, ALICE)
        assert (status, "response.completed" in text, bool(request_id)) == (200, True, True)
        status, text, _ = ask(driver, allowed, url, "sk-ocm-none")
        assert (status, "invalid_bearer_token" in text) == (401, True)
        sent = len(running.simulator.requests)
        assert ask(driver, other, url, ALICE)[:2] == (0, "TypeError: Failed to fetch")
        assert len(running.simulator.requests) == sent == 1
