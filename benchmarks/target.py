"""A server as clients see it: its address, and the requests that it gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import wire


@dataclass(frozen=True)
class Target:
    """The server that clients connect to.

    :ivar path: the path of the Responses endpoint.
    :ivar bearer_token: of the user whose requests these are, unless another is given.
    :ivar other_tokens: of further users.
    :ivar authority: the file with the authority to trust, if clients themselves use TLS.
    :ivar rewrites: whether the server rewrites responses over HTTP.
    :ivar ends_sockets: whether the server ends WebSockets itself, in place of relaying Close frames.
    """

    address: tuple[str, int]
    path: str
    bearer_token: str = field(repr=False)
    other_tokens: tuple[str, ...] = field(default=(), repr=False)
    authority: Path | None = None
    rewrites: bool = False
    ends_sockets: bool = False

    def request(self, query: str, body: bytes, *, bearer_token: str | None = None) -> bytes:
        """Return the bytes of a POST request, with the fields that Codex sends."""
        fields = {
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": len(body),
        }
        return self._head("POST", query, fields, bearer_token or self.bearer_token) + body

    def handshake(self, query: str) -> bytes:
        """Return the bytes of an opening handshake with the fields that Codex sends, without compression."""
        fields = {
            "Connection": "Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Version": 13,
            "Sec-WebSocket-Key": wire.SOCKET_KEY,
        }
        return self._head("GET", query, fields, self.bearer_token)

    def user_token(self, index: int) -> str:
        """Return the bearer token of one of the further users, or of the only user if there are no others."""
        return self.other_tokens[index % len(self.other_tokens)] if self.other_tokens else self.bearer_token

    def _head(self, method: str, query: str, fields: Mapping[str, object], bearer_token: str) -> bytes:
        host, port = self.address
        all_fields = {
            "Host": f"{host}:{port}",
            "Authorization": f"Bearer {bearer_token}",
            "User-Agent": "codex_cli_rs/0.169.0",
            "originator": "codex_cli_rs",
            "session-id": "019b76da-a800-7000-8000-000000000000",
            **fields,
        }
        lines = [f"{method} {self.path}{query} HTTP/1.1", *(f"{name}: {value}" for name, value in all_fields.items())]
        return "\r\n".join([*lines, "", ""]).encode()
