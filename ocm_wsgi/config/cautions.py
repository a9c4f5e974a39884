"""Cautions: settings that are valid, but about which the owner should know. Pure; no I/O."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterator
from urllib.parse import urlsplit

from ocm_wsgi.config.service import Service
from ocm_wsgi.config.tls import TLS

#: A token should have at least this many characters, not counting prefixes and the user's name.
MIN_TOKEN_LENGTH = 16
# Hardly any random token of that length is estimated at less, even one of digits only.
_MIN_TOKEN_BITS = 30.0
_PREFIXES = ("sk-ocm-", "sk-proj-", "sk-")
_BASE_URLS = ("chatgpt_base_url", "api_base_url", "auth_base_url")


def cautions(service: Service, tls: TLS | None) -> Iterator[str]:
    """Yield a sentence, without its full stop, for each such setting. None shows a secret."""
    yield from _listening(service, tls)
    for key in _BASE_URLS:
        url = getattr(service, key)
        if is_clear_text(url):
            yield f"{key} is {url}: the credential and everything else is sent to another machine without encryption"
    yield from _weak_tokens(service)


def is_clear_text(url: str) -> bool:
    """Return whether requests to this URL leave the machine without encryption."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_weak_token(bearer_token: str, name: str = "") -> bool:
    """Return whether a token is short, or its characters are so few or so regular that it could be guessed.

    Words are not recognized: what passes is not proven to be random.

    :param name: the user's name, which adds nothing to a token.
    """
    text = bearer_token
    for prefix in _PREFIXES:
        text = text.removeprefix(prefix)
    if name:
        text = text.replace(name, "").replace(name.lower(), "")
    return len(text) < MIN_TOKEN_LENGTH or _bits(text) < _MIN_TOKEN_BITS


def _bits(text: str) -> float:
    """Estimate how many bits of chance are in a text; characters that repeat or continue a sequence add nothing."""
    codes = [ord(character) for character in text]
    counted = [code for code, before in zip(codes, [-2, *codes], strict=False) if abs(code - before) > 1]
    return len(counted) * math.log2(max(len(set(counted)), 1))


def _listening(service: Service, tls: TLS | None) -> Iterator[str]:
    where = f"listening on {service.listen}:{service.listen_port}"
    if not is_loopback(service.listen):
        if not service.users:
            yield f"{where} with no users: anyone who can reach this address can use the subscription; add users"
        if tls is None or not tls.enabled:
            yield f"{where} without TLS: tokens and requests of clients elsewhere can be read on their way"
    if tls is not None and not tls.enabled and tls != TLS():
        yield "tls has settings but enabled is not true: clients are served without TLS"


def _weak_tokens(service: Service) -> Iterator[str]:
    weak = [user.name for user in service.users if is_weak_token(user.token.get_secret_value(), user.name)]
    if weak:
        yield f"tokens that could be guessed, of users: {', '.join(weak)}; `openssl rand -hex 32` makes better ones"
    if service.metrics_token is not None and is_weak_token(service.metrics_token.get_secret_value()):
        yield "metrics_token could be guessed; `openssl rand -hex 32` makes a better one"
