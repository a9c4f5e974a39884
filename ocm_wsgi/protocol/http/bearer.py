"""Extracts the bearer token from a request. Pure; which user it belongs to is decided in ``users``.

Source: RFC 6750 section 2.1, RFC 9110 section 11.6.2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ocm_wsgi.errors import AuthenticationFailed, BadRequest

#: Sent with every 401 (RFC 6750 section 3).
CHALLENGE = 'Bearer realm="ocm"'

_API_KEY_FIELDS = frozenset({"x-api-key", "api-key"})
# More than RFC 6750 allows: every token that can be configured, i.e. of visible ASCII characters.
_CREDENTIALS = re.compile(r"[Bb][Ee][Aa][Rr][Ee][Rr] +([\x21-\x7e]+)[ \t]*")


def refuse_api_key_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Refuse a request with the token in the wrong field, with a message that names the right one.

    :raises BadRequest: the request has an ``X-Api-Key`` or ``Api-Key`` field.
    """
    if any(name.lower() in _API_KEY_FIELDS for name, _ in fields):
        raise BadRequest("X-Api-Key and Api-Key are not supported; send Authorization: Bearer <token>.")


def bearer_token(fields: Iterable[tuple[str, str]]) -> str:
    """Return the bearer token of a request.

    :raises AuthenticationFailed: there is no token, more than one, or one that is not made of visible ASCII characters.
    """
    values = [value for name, value in fields if name.lower() == "authorization"]
    if not values:
        raise AuthenticationFailed("No bearer token: send Authorization: Bearer <token>.")
    credentials = _CREDENTIALS.fullmatch(values[0].lstrip(" \t"))
    if len(values) > 1 or not credentials:
        raise AuthenticationFailed("The Authorization field is malformed: send Authorization: Bearer <token>.")
    return credentials[1]
