"""Cross-Origin Resource Sharing: lets web pages of the origins that the owner allows use the API. Pure; no I/O.

Cookies play no part: the API knows its users by their bearer tokens, which a page has to have.

Source: Fetch Standard, section 3.3.
"""

from __future__ import annotations

from collections.abc import Collection

from ocm_wsgi.errors import ForeignOrigin
from ocm_wsgi.protocol.http.fields import TOKEN, Fields, list_members, value_of

#: Means every origin.
ANY_ORIGIN = "*"

_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
# Chrome's limit. A page of an origin that is allowed no longer cannot read a response in the meantime either.
_MAX_AGE_SECONDS = 7200
_EXPOSE_ALL = ("Access-Control-Expose-Headers", "*")


def is_preflight(method: str, fields: Fields) -> bool:
    """Return whether a browser asks if a page may send a request."""
    return (
        method == "OPTIONS"
        and value_of(fields, "origin") is not None
        and value_of(fields, "access-control-request-method") is not None
    )


def is_allowed(origin: str, allow_origins: Collection[str]) -> bool:
    """Return whether pages of an origin may use the API.

    :param origin: the value of ``Origin``.
    :param allow_origins: as the configuration has them.
    """
    return ANY_ORIGIN in allow_origins or origin.strip().lower() in allow_origins


def preflight_fields(fields: Fields, allow_origins: Collection[str]) -> Fields:
    """Return the fields of the response to a preflight request, beside those of :func:`response_fields`.

    :raises ForeignOrigin: the origin is not allowed. The browser then sends no request.
    """
    origin = value_of(fields, "origin") or ""
    if not is_allowed(origin, allow_origins):
        raise ForeignOrigin(
            "Web pages of this origin may not use this service. Its owner can allow the origin in allow_origins."
            if allow_origins
            else "Web pages may not use this service. Its owner can allow their origins in allow_origins."
        )
    # "*" would not include Authorization.
    requested = [name for name in list_members(fields, "access-control-request-headers") if TOKEN.fullmatch(name)]
    return [
        ("Access-Control-Allow-Methods", _METHODS),
        ("Access-Control-Allow-Headers", ", ".join(dict.fromkeys(["authorization", *requested]))),
        ("Access-Control-Max-Age", str(_MAX_AGE_SECONDS)),
    ]


def response_fields(origin: str | None, allow_origins: Collection[str]) -> Fields:
    """Return the fields that let a page read a response, for any response of a service that allows origins.

    :param origin: the value of the request's ``Origin``, or ``None``.
    """
    if ANY_ORIGIN in allow_origins:
        return [("Access-Control-Allow-Origin", ANY_ORIGIN), _EXPOSE_ALL]
    vary = ("Vary", "Origin")
    if origin is None or not is_allowed(origin, allow_origins):
        return [vary]
    return [("Access-Control-Allow-Origin", origin.strip()), _EXPOSE_ALL, vary]
