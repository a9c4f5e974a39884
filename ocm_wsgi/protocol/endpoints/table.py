"""Finds the endpoint of a request, or says why there is none. Pure; no I/O.

The path is matched as the client wrote it, which is what is sent upstream. Where a server could understand it in two
ways there is no endpoint: words are lower case, not percent-encoded and without a slash behind them, and an ID may not
be a word of any path.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from urllib.parse import unquote

from ocm_wsgi.errors import AdminOnly, EndpointUnavailable, MethodNotSupported, NotFound, OcmError, UpgradeUnavailable
from ocm_wsgi.protocol.endpoints.chatgpt import CHATGPT_ENDPOINTS
from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET, Endpoint, is_parameter
from ocm_wsgi.protocol.endpoints.platform import PLATFORM_ENDPOINTS

CredentialKind = Literal["chatgpt", "apikey"]

# IDs are made of letters, digits, "_" and "-"; names of models have dots and colons too.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@~+-]*")
# Keys of a node beside the words of its paths; neither can be a segment of a valid target.
_ANY = "{}"
_METHODS = "/"

# What makes keys or tokens works past this service for as long as they are valid, and what administers the owner's
# organization makes keys. Such a path is not relayed, whatever is configured.
_KEY_MAKING_ROOTS = frozenset({"chatkit", "organization", "organizations", "projects", "vaults", "webhook_endpoints"})
_KEY_MAKING_PATHS = frozenset({("realtime", "sessions"), ("realtime", "transcription_sessions")})
_KEY_MAKING_WORDS = frozenset(
    {
        "access_tokens",
        "admin_api_keys",
        "api_keys",
        "client_secrets",
        "credentials",
        "ephemeral_keys",
        "ephemeral_tokens",
        "keys",
        "rotate_secret",
        "secrets",
        "service_accounts",
        "session_tokens",
        "tokens",
    }
)
# Not even an extra endpoint has a parameter that matches one of these.
_NO_NAMES = _KEY_MAKING_WORDS | {word for path in _KEY_MAKING_PATHS for word in path}

_LONGEST_PATH_SHOWN = 100

_Node = dict[str, Any]


class EndpointTable:
    """The endpoints that are relayed for one kind of credential.

    :param credential_kind: for which the endpoints are.
    :param endpoints: no method of a path may occur twice.
    """

    def __init__(self, credential_kind: CredentialKind, endpoints: Iterable[Endpoint]) -> None:
        self._credential_kind = credential_kind
        self.endpoints = tuple(endpoints)
        # By path and method, for paths without an ID: one look-up finds the endpoint of a turn.
        self._fixed: dict[str, dict[str, Endpoint]] = {}
        self._tree: _Node = {}
        self._words = set(_NO_NAMES)
        for endpoint in self.endpoints:
            self._add(endpoint)

    def _add(self, endpoint: Endpoint) -> None:
        node = self._tree
        segments = endpoint.path.split("/")
        for segment in segments:
            node = node.setdefault(_ANY if is_parameter(segment) else segment, {})
        methods: dict[str, Endpoint] = node.setdefault(_METHODS, {})
        if endpoint.method in methods:
            raise ValueError(f"{endpoint.method} {endpoint.path} occurs twice")
        methods[endpoint.method] = endpoint
        self._words.update(segment.lower() for segment in segments if not is_parameter(segment))
        if not any(is_parameter(segment) for segment in segments):
            self._fixed[endpoint.path] = methods

    def find(self, method: str, path: str, *, is_admin: bool) -> Endpoint:
        """Return the endpoint of a request.

        :param method: as in the request line; :data:`~ocm_wsgi.protocol.endpoints.endpoint.WEBSOCKET` for an opening
            handshake.
        :param path: below ``/v1/``, as the client wrote it; :func:`~ocm_wsgi.protocol.http.targets.api_target` has
            accepted it.
        :raises NotFound: there is no such path, or none that is relayed.
        :raises MethodNotSupported: the path has other methods.
        :raises UpgradeUnavailable: the path accepts no WebSocket.
        :raises EndpointUnavailable: the path exists for an API key only.
        :raises AdminOnly: the endpoint is for admins.
        """
        methods = self._fixed.get(path) or self._methods(path)
        if methods is None:
            raise self._not_found(method, path)
        endpoint = methods.get(method)
        if endpoint is None:
            raise _not_supported(method, path, methods)
        if endpoint.for_admins and not is_admin:
            raise AdminOnly(f"{method} /v1/{endpoint.path} is for admins.")
        return endpoint

    def has(self, path: str, method: str | None = None) -> bool:
        """Return whether there is an endpoint at a path, with this method or with any.

        :param path: of a request, or of an endpoint.
        """
        path = "/".join("0" if is_parameter(segment) else segment for segment in path.split("/"))
        methods = self._fixed.get(path) or self._methods(path)
        return methods is not None and (method is None or method in methods)

    def extended(self, extra: Iterable[Endpoint]) -> EndpointTable:
        """Return this table with more endpoints. What is in this one keeps its rules."""
        added = [endpoint for endpoint in extra if not self.has(endpoint.path, endpoint.method)]
        return EndpointTable(self._credential_kind, (*self.endpoints, *added)) if added else self

    def _methods(self, path: str) -> dict[str, Endpoint] | None:
        node = self._tree
        for segment in path.split("/"):
            found = node.get(segment)
            if found is None and _ANY in node and self._is_name(segment):
                found = node[_ANY]
            if found is None:
                return None
            node = found
        methods: dict[str, Endpoint] | None = node.get(_METHODS)
        return methods

    def _is_name(self, segment: str) -> bool:
        name = unquote(segment) if "%" in segment else segment
        return _NAME.fullmatch(name) is not None and name.lower() not in self._words

    def _not_found(self, method: str, path: str) -> OcmError:
        if method == WEBSOCKET:
            return _no_websocket()
        shown = _shown(path)
        if makes_keys(path):
            return NotFound(
                f"{shown} is not relayed: keys and tokens would work past this service. "
                "Use the bearer token of this service."
            )
        if self._credential_kind == "chatgpt" and PLATFORM.has(path):
            return EndpointUnavailable(
                f"{shown} needs an OpenAI API key; this service is signed in with ChatGPT. Use /v1/responses."
            )
        return NotFound(f"There is no {shown} here. {self._existing}")

    @property
    def _existing(self) -> str:
        """A sentence that names what exists."""
        roots = dict.fromkeys(each.path.partition("/{")[0] for each in self.endpoints if not each.for_admins)
        return f"What exists: {', '.join(f'/v1/{path}' for path in roots)}."


def makes_keys(path: str) -> bool:
    """Return whether a path is one that makes keys or tokens, or administers the owner's organization.

    :param path: below ``/v1/``.
    """
    words = unquote(path).lower().split("/")
    return (
        words[0] in _KEY_MAKING_ROOTS
        or tuple(words[:2]) in _KEY_MAKING_PATHS
        or not _KEY_MAKING_WORDS.isdisjoint(words)
    )


def _not_supported(method: str, path: str, methods: Mapping[str, Endpoint]) -> OcmError:
    if method == WEBSOCKET:
        return _no_websocket()
    allowed = [name for name in methods if name != WEBSOCKET]
    return MethodNotSupported(f"{_shown(path)} does not support {method[:20]}; use {' or '.join(allowed)}.", allowed)


def _shown(path: str) -> str:
    return f"/v1/{path}" if len(path) <= _LONGEST_PATH_SHOWN else f"/v1/{path[:_LONGEST_PATH_SHOWN]}..."


def _no_websocket() -> UpgradeUnavailable:
    return UpgradeUnavailable(
        "WebSocket is available at /v1/responses only; use HTTP. Realtime sessions are not relayed, "
        "as nobody could count what they use."
    )


CHATGPT = EndpointTable("chatgpt", CHATGPT_ENDPOINTS)
PLATFORM = EndpointTable("apikey", PLATFORM_ENDPOINTS)
