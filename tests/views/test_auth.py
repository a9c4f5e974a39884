"""Authentication by bearer token, over each way in."""

from __future__ import annotations

import requests

from tests.api_requests import TURN, connected, head, receive_until
from tests.conftest import ServiceFactory

#: Visible ASCII characters that are in no token of ours, but may be in the configuration.
TOKEN = "s\"3,c;r'e\\t[{%!#}]="
SCRAPER = "<m@e:t|r`i&c$s>"
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": 13,
}


def test_tokens_of_any_visible_ascii(service: ServiceFactory) -> None:
    """What the configuration accepts as a token authenticates over HTTP and WebSocket, and at the metrics."""
    running = service(users={"alice": TOKEN}, metrics_token=SCRAPER, workers=1)
    with requests.Session() as session:
        session.trust_env = False
        for method, path, token in (("POST", "/v1/responses", TOKEN), ("GET", "/metrics", SCRAPER)):
            headers = {"Authorization": f"Bearer {token}"}
            assert session.request(method, running.url + path, headers=headers, json=TURN).status_code == 200
            headers = {"Authorization": f"Bearer {token}x"}
            assert session.request(method, running.url + path, headers=headers, json=TURN).status_code == 401
    with connected(running) as connection:
        connection.sendall(head("GET", "/v1/responses", token=TOKEN, **HANDSHAKE))
        assert receive_until(connection, b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
