"""Which header fields pass, in which direction. Pure; no I/O.

Fields are lists of ``(name, value)`` pairs in the order they came, duplicates kept. Names that go upstream are in
lower case, as HTTP/2 and Codex itself write them; an underscore stays an underscore.

Source: RFC 9110 sections 5 and 7.6.1; which fields are bound to an account: OpenAI's Codex client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

Fields = list[tuple[str, str]]

#: For one connection only (RFC 9110 section 7.6.1), with their unregistered companions.
HOP_BY_HOP_FIELDS = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
#: Bound to whoever signed in on the client: upstream must see the owner's account or nothing.
ACCOUNT_FIELDS = frozenset(
    {"authorization", "chatgpt-account-id", "x-openai-account-routing-override", "x-openai-fedramp"}
)
#: Who the client is and which proxies it came through is nobody's business upstream.
CLIENT_ADDRESS_FIELDS = frozenset(
    {
        "cdn-loop",
        "forwarded",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-real-ip",
    }
)
CLIENT_ADDRESS_PREFIXES = ("cf-", "x-forwarded-")
#: Set anew for the upstream connection, or answered here.
OWN_FIELDS = frozenset({"content-length", "cookie", "cookie2", "expect", "host"})

_NOT_TO_UPSTREAM = HOP_BY_HOP_FIELDS | ACCOUNT_FIELDS | CLIENT_ADDRESS_FIELDS | OWN_FIELDS
_NOT_TO_CLIENT = HOP_BY_HOP_FIELDS | {"set-cookie", "set-cookie2"}
# nginx obeys these: X-Accel-Redirect from outside would be an internal redirect of the owner's own server.
_NOT_TO_CLIENT_PREFIX = "x-accel-"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def value_of(fields: Iterable[tuple[str, str]], field_name: str) -> str | None:
    """The value of a field, repeated lines joined by a comma (RFC 9110 section 5.2), or ``None``.

    :param field_name: in lower case.
    """
    length = len(field_name)
    # Asked some twenty times a request; most names differ in length already.
    values = [value for name, value in fields if len(name) == length and name.lower() == field_name]
    return ", ".join(values) if values else None


def forwardable_request_fields(client_fields: Iterable[tuple[str, str]]) -> Fields:
    """The fields of a client's request that go upstream."""
    lowered = [(name.lower(), value) for name, value in client_fields]
    options = _connection_options(lowered)
    return [
        (name, value)
        for name, value in lowered
        if name not in _NOT_TO_UPSTREAM and name not in options and not name.startswith(CLIENT_ADDRESS_PREFIXES)
    ]


def upstream_request_fields(
    client_fields: Iterable[tuple[str, str]],
    *,
    host: str,
    account: Sequence[tuple[str, str]],
    content_length: int | None,
    overrides: Mapping[str, Sequence[str]],
) -> Fields:
    """Everything that goes upstream, in order.

    :param host: the ``Host`` field, for upstream.
    :param account: the owner's fields (``authorization``, ``chatgpt-account-id`` ...).
    :param content_length: octets of the body, or ``None`` for a request without one.
    :param overrides: the configuration's ``headers``: each replaces all fields of its name, ``account`` included.
    """
    fields = [("host", host), *forwardable_request_fields(client_fields), *account]
    if content_length is not None:
        fields.append(("content-length", str(content_length)))
    if overrides:
        replaced = {name.lower() for name in overrides}
        fields = [field for field in fields if field[0] not in replaced]
        fields += [(name.lower(), value) for name, values in overrides.items() for value in values]
    return fields


def forwardable_response_fields(upstream_fields: Iterable[tuple[str, str]]) -> Fields:
    """The fields of an upstream response that go to the client.

    A field whose name or value could not be sent without breaking the response apart is left out. ``Content-Length``
    beside ``Transfer-Encoding`` is void (RFC 9112 section 6.3) and left out too.
    """
    lowered = [(name.lower(), name, value) for name, value in upstream_fields]
    options = _connection_options((name, value) for name, _, value in lowered)
    if any(name == "transfer-encoding" for name, _, _ in lowered):
        options = options | {"content-length"}
    return [
        (name, value)
        for lowered_name, name, value in lowered
        if lowered_name not in _NOT_TO_CLIENT
        and lowered_name not in options
        and not lowered_name.startswith(_NOT_TO_CLIENT_PREFIX)
        and _TOKEN.fullmatch(name)
        and _FIELD_VALUE.fullmatch(value)
    ]


def _connection_options(lowered: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Names that the ``Connection`` field declares to be for this connection only."""
    return frozenset(
        option.strip().lower() for name, value in lowered if name == "connection" for option in value.split(",")
    )
