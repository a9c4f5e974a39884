"""The check of each address of OpenAI's hosts."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from ocm_wsgi.checks import dead_addresses, reachability
from ocm_wsgi.config import load
from ocm_wsgi.protocol.http.targets import Origin
from ocm_wsgi.simulator import Simulator
from tests.silent_address import SILENT, resolver, silent_address

REFUSING = "127.0.0.3"
WITHOUT_NETWORK = "255.255.255.255"


@pytest.mark.parametrize("dead", [[], [REFUSING, SILENT]])
def test_dead_addresses(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dead: list[str]) -> None:
    """Each address that refuses or is silent is named, but none of a family for which there is no network."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver("localhost", *dead, WITHOUT_NETWORK, "127.0.0.1"))
    monkeypatch.setattr(dead_addresses, "_TIMEOUT_SECONDS", 0.2)
    environ = {
        "HOME": str(tmp_path),
        "OCM_CHATGPT_BASE_URL": simulator.chatgpt_base_url.replace("127.0.0.1", "localhost"),
        "OCM_AUTH_BASE_URL": simulator.auth_base_url.replace("127.0.0.1", "localhost"),
    }
    with silent_address(Origin.parse(simulator.api_base_url).port):
        config = load(environ, tmp_path)
        found = list(reachability.findings(config, config.accounts[0]))
    texts = [finding.text for finding in found if finding.code == "dead_address"]
    for name in ("ChatGPT", "OpenAI's sign-in"):
        for address in dead:
            assert sum(text.startswith(name) and f"({address}: " in text for text in texts) == 1
    assert len(texts) == 2 * len(dead)
    assert sum(finding.code == "reached" for finding in found) == 2
