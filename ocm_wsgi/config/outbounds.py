"""Resolves ``detour``, the tag of a sing-box outbound or a proxy's URL, to one proxy URL."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.config.unsupported_keys import is_off
from ocm_wsgi.errors import ConfigProblem

PROXY_SCHEMES = ("socks5h", "socks5", "socks4a", "socks4", "http", "https")
_SOCKS_SCHEMES = {"5": "socks5h", "4a": "socks4a", "4": "socks4"}
_ADDRESS_KEYS = frozenset({"server", "server_port", "username", "password"})
_KEYS = {
    "direct": frozenset[str](),
    "socks": _ADDRESS_KEYS | {"version"},
    "http": _ADDRESS_KEYS | {"tls"},
}
# Keys about UDP alone have no effect here, so ignoring them honours them.
_IRRELEVANT = frozenset({"type", "tag", "udp_fragment", "udp_over_tcp"})


def proxy_url(detour: str, outbounds: Any, *, where: str, path: JsonPath) -> tuple[str | None, list[ConfigProblem]]:
    """Return the proxy URL that the detour resolves to (``None`` to connect directly) and the problems found.

    :param detour: a tag or a proxy URL.
    :param outbounds: the file's ``outbounds``, unvalidated.
    :param where: the location of the detour, for messages.
    :param path: the location of the outbounds.
    """
    if "://" in detour:
        return _checked_url(detour, where)
    tagged = [
        (index, outbound)
        for index, outbound in enumerate(outbounds if isinstance(outbounds, list) else [])
        if isinstance(outbound, dict) and isinstance(outbound.get("tag"), str)
    ]
    matches = [(index, outbound) for index, outbound in tagged if outbound["tag"] == detour]
    if len(matches) == 1:
        index, outbound = matches[0]
        return _Outbound(outbound, (*path, index)).resolve()
    if matches:
        return None, [ConfigProblem(where, f'the tag "{detour}" of {len(matches)} outbounds', "the tag of exactly one")]
    tags = [outbound["tag"] for _, outbound in tagged]
    expected = "the tag of an entry in outbounds, or a proxy URL such as socks5h://127.0.0.1:1080"
    nearest = difflib.get_close_matches(detour, tags, n=1)
    found = "an unknown tag (not shown)" if "@" in detour else f'the unknown tag "{detour}"'
    return None, [ConfigProblem(where, found, expected, nearest[0] if nearest else None)]


def _checked_url(url: str, where: str) -> tuple[str | None, list[ConfigProblem]]:
    expected = "a proxy URL such as socks5h://127.0.0.1:1080 (" + ", ".join(PROXY_SCHEMES) + ")"
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError:
        return None, [ConfigProblem(where, "a malformed URL (not shown)", expected)]
    if parts.scheme not in PROXY_SCHEMES:
        return None, [ConfigProblem(where, f"a URL with the scheme {parts.scheme}", expected)]
    if not host or parts.path not in ("", "/") or parts.query or parts.fragment or re.search(r"[^\x21-\x7e]", url):
        return None, [ConfigProblem(where, "a URL that does not name a proxy (not shown)", expected)]
    return url.rstrip("/"), []


class _Outbound:
    """An outbound that a detour names."""

    def __init__(self, members: Mapping[str, Any], path: JsonPath) -> None:
        self.members = members
        self.path = path
        self.problems: list[ConfigProblem] = []

    def resolve(self) -> tuple[str | None, list[ConfigProblem]]:
        kind = self.members.get("type")
        if not isinstance(kind, str) or kind not in _KEYS:
            found = f'"{kind}"' if isinstance(kind, str) else "no type"
            self._problem("type", found, '"direct", "socks" or "http", the only types of outbound supported here')
            return None, self.problems
        self._reject_unsupported_keys(kind)
        url = None if kind == "direct" else self._proxy(kind)
        return (None, self.problems) if self.problems else (url, [])

    def _problem(self, key: str, found: str, expected: str) -> None:
        self.problems.append(ConfigProblem(json_path((*self.path, key)), found, expected))

    def _reject_unsupported_keys(self, kind: str) -> None:
        for key, value in self.members.items():
            if key in _KEYS[kind] or key in _IRRELEVANT or is_off(value):
                continue
            if key == "network" and (value == "tcp" or (isinstance(value, list) and "tcp" in value)):
                continue
            reason = f"only {', '.join(sorted(_KEYS[kind])) or 'the tag'}: others are not supported for upstream"
            self._problem(key, f"the key {key} of an outbound of type {kind}", reason)

    def _proxy(self, kind: str) -> str:
        scheme = self._socks_scheme() if kind == "socks" else self._http_scheme()
        userinfo = self._userinfo(scheme)
        return f"{scheme}://{userinfo}{self._host()}:{self._port()}"

    def _socks_scheme(self) -> str:
        version = self.members.get("version") or "5"
        if not isinstance(version, str) or version not in _SOCKS_SCHEMES:
            self._problem("version", f'"{version}"', '"5", "4a" or "4"')
            return "socks5h"
        return _SOCKS_SCHEMES[version]

    def _http_scheme(self) -> str:
        tls = self.members.get("tls")
        if is_off(tls):
            return "http"
        if not isinstance(tls, dict):
            self._problem("tls", "a value that is not an object", "an object of TLS settings")
            return "https"
        for key, value in tls.items():
            if key == "enabled" or is_off(value) or (key == "server_name" and value == self.members.get("server")):
                continue
            reason = (
                "only enabled: the proxy's certificate is verified for its host name, with the settings in certificate"
            )
            self.problems.append(ConfigProblem(json_path((*self.path, "tls", key)), f"the key {key}", reason))
        if not isinstance(tls.get("enabled", False), bool):
            self.problems.append(
                ConfigProblem(json_path((*self.path, "tls", "enabled")), "a value that is not a flag", "true or false")
            )
        return "https" if tls.get("enabled") else "http"

    def _userinfo(self, scheme: str) -> str:
        username = self._optional_text("username")
        password = self._optional_text("password")
        if password and scheme.startswith("socks4"):
            self._problem("password", "a password (not shown)", "none: SOCKS4 supports user names only")
        if not username and not password:
            return ""
        return quote(username, safe="") + (f":{quote(password, safe='')}" if password else "") + "@"

    def _optional_text(self, key: str) -> str:
        value = self.members.get(key) or ""
        if not isinstance(value, str):
            self._problem(key, "a value that is not a string (not shown)", "a string")
            return ""
        return value

    def _host(self) -> str:
        server = self.members.get("server")
        if not isinstance(server, str) or not re.fullmatch(r"[A-Za-z0-9._:-]+", server):
            self._problem(
                "server", "a value that is neither a host name nor an IP address", "the proxy's host name or IP address"
            )
            return ""
        return f"[{server}]" if ":" in server else server

    def _port(self) -> int:
        port = self.members.get("server_port")
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
            self._problem("server_port", "a value that is not a port number", "the proxy's port, from 1 to 65535")
            return 0
        return port
