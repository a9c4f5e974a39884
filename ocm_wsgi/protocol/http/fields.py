"""Reads header fields, and selects those to forward in each direction. Pure; no I/O.

Fields are lists of ``(name, value)`` pairs in the order received, with duplicates. Names sent upstream are lower case,
as in HTTP/2 and Codex itself; an underscore stays an underscore.

Source: RFC 9110 sections 5 and 7.6.1; which fields are bound to an account: OpenAI's Codex client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from ocm_wsgi.protocol.http.content_coding import readable_codings

Fields = list[tuple[str, str]]

#: Meant for one connection only (RFC 9110 section 7.6.1), unregistered ones included.
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
#: Identify the account that is signed in on the client, or its organization or project: upstream must see the owner's
#: or none. What the owner wants here is configured as ``headers``.
ACCOUNT_FIELDS = frozenset(
    {
        "authorization",
        "chatgpt-account-id",
        "openai-organization",
        "openai-project",
        "x-openai-account-routing-override",
        "x-openai-fedramp",
    }
)
#: Identify the client or its proxies, which is private to this service.
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
#: Would make some servers act on another method or path than those that were checked.
OVERRIDE_FIELDS = frozenset(
    {
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
        "x-original-method",
        "x-original-uri",
        "x-original-url",
        "x-rewrite-url",
    }
)
#: Name the web page that sends the request. Which pages may is decided here.
WEB_PAGE_FIELDS = frozenset({"origin", "referer"})
WEB_PAGE_PREFIXES = ("access-control-", "sec-fetch-")
#: Set by us for the upstream connection, or handled here.
OWN_FIELDS = frozenset({"content-length", "cookie", "cookie2", "expect", "host"})

_NOT_TO_UPSTREAM = (
    HOP_BY_HOP_FIELDS | ACCOUNT_FIELDS | CLIENT_ADDRESS_FIELDS | OVERRIDE_FIELDS | WEB_PAGE_FIELDS | OWN_FIELDS
)
_PREFIXES_NOT_TO_UPSTREAM = CLIENT_ADDRESS_PREFIXES + WEB_PAGE_PREFIXES
_NOT_TO_CLIENT = HOP_BY_HOP_FIELDS | {"set-cookie", "set-cookie2"}
# nginx acts on X-Accel-Redirect, which would cause an internal redirect in the owner's server. Which web pages may read
# a response is the owner's to decide.
_NOT_TO_CLIENT_PREFIXES = ("x-accel-", "access-control-")

# End-to-end fields that describe the content, or what the client accepts. Naming one in Connection must not remove it:
# the content would then be read in one way here and in another at its recipient (RFC 9110 section 7.6.1).
_CONTENT_FIELD_PREFIXES = ("content-", "accept")

#: A name of a field (RFC 9110 section 5.6.2).
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def value_of(fields: Iterable[tuple[str, str]], field_name: str) -> str | None:
    """Return the value of a field, repeated lines joined by a comma (RFC 9110 section 5.2), or ``None``.

    :param field_name: in lower case.
    """
    length = len(field_name)
    # Called some twenty times per request, and most names differ in length.
    values = [value for name, value in fields if len(name) == length and name.lower() == field_name]
    return ", ".join(values) if values else None


def list_members(fields: Iterable[tuple[str, str]], field_name: str) -> list[str]:
    """Return the members of a list-based field, in lower case.

    :param field_name: in lower case.
    """
    value = value_of(fields, field_name) or ""
    return [member for element in value.split(",") if (member := element.strip().lower())]


def forwardable_request_fields(client_fields: Iterable[tuple[str, str]]) -> Fields:
    """Return the fields of a client's request to send upstream."""
    received = list(client_fields)
    options = _connection_options(received)
    return [
        (lowered, value)
        for name, value in received
        if (lowered := _name_for_upstream(name)) is not None and lowered not in options
    ]


# Clients send the same few names again and again.
@lru_cache(maxsize=512)
def _name_for_upstream(name: str) -> str | None:
    """Return a field's name in lower case, or ``None`` if the field is not sent upstream."""
    lowered = name.lower()
    # A server that turns names into variables reads an underscore as a hyphen.
    hyphened = lowered.replace("_", "-")
    is_sent = hyphened not in _NOT_TO_UPSTREAM and not hyphened.startswith(_PREFIXES_NOT_TO_UPSTREAM)
    return lowered if is_sent else None


def _connection_options(fields: Iterable[tuple[str, str]]) -> list[str]:
    """Return the names of fields that are for one connection only, because ``Connection`` names them."""
    return [name for name in list_members(fields, "connection") if not name.startswith(_CONTENT_FIELD_PREFIXES)]


def upstream_request_fields(
    client_fields: Iterable[tuple[str, str]],
    *,
    host: str,
    account: Sequence[tuple[str, str]],
    content_length: int | None,
    overrides: Mapping[str, Sequence[str]],
) -> Fields:
    """Return all fields for upstream, in order.

    :param host: the value of the ``Host`` field.
    :param account: the owner's fields (``authorization``, ``chatgpt-account-id`` ...).
    :param content_length: octets in the body, or ``None`` for a request without one.
    :param overrides: the configuration's ``headers``: each replaces all fields of its name, including ``account``.
    """
    fields = [("host", host), *forwardable_request_fields(client_fields), *account]
    if content_length is not None:
        fields.append(("content-length", str(content_length)))
    if overrides:
        replaced = {name.lower() for name in overrides}
        fields = [field for field in fields if field[0] not in replaced]
        fields += [(name.lower(), value) for name, values in overrides.items() for value in values]
    return fields


def with_readable_codings(fields: Fields) -> Fields:
    """Return a request's fields that ask for no content coding in which the answer could not be read."""
    return [
        # Some servers take an underscore for a hyphen.
        (name, readable_codings(value) if name.lower().replace("_", "-") == "accept-encoding" else value)
        for name, value in fields
    ]


def forwardable_response_fields(upstream_fields: Iterable[tuple[str, str]]) -> Fields:
    """Return the fields of an upstream response to send to the client.

    A field whose name or value would break the response's syntax is dropped. ``Content-Length`` beside
    ``Transfer-Encoding`` is invalid (RFC 9112 section 6.3) and dropped, too.
    """
    received = list(upstream_fields)
    options = _connection_options(received)
    if value_of(received, "transfer-encoding") is not None:
        options.append("content-length")
    return [
        (name, value)
        for name, value in received
        if (lowered := _name_for_client(name)) is not None and lowered not in options and _FIELD_VALUE.fullmatch(value)
    ]


@lru_cache(maxsize=512)
def _name_for_client(name: str) -> str | None:
    """Return a field's name in lower case, or ``None`` if the field is not sent to clients."""
    lowered = name.lower()
    is_sent = lowered not in _NOT_TO_CLIENT and not lowered.startswith(_NOT_TO_CLIENT_PREFIXES)
    return lowered if is_sent and TOKEN.fullmatch(name) else None
