"""Recognises the requests that web pages of other origins make browsers send. Pure; no I/O.

A service without users serves everyone who can connect, and usually that is this machine only. But the browser on this
machine connects on behalf of every page that it shows. Two fields, which no page can change, reveal that: ``Origin``
and ``Sec-Fetch-Site``. A third reveals DNS rebinding, where a page's own name is made to resolve to our address, so
that to the browser we are the page's own server: then ``Host`` is that name.

Source: RFC 6454 section 7, RFC 6455 section 10.2, W3C Fetch Metadata section 2.3, RFC 9110 section 7.2.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from ocm_wsgi.errors import ForeignOrigin, UntrustedHost
from ocm_wsgi.protocol.http.fields import Fields, value_of

#: ``none`` is a request that the user made, e.g. by typing the address.
_OWN_SITES = frozenset({"same-origin", "none"})
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[^\[\]:,/?#@\s]+)(?::[0-9]{1,5})?")


def require_own_host(fields: Fields, *, listens_on: Collection[str], allow_origins: Collection[str]) -> None:
    """Refuse a request to a name that is not certainly ours.

    :param listens_on: addresses of this service; ``0.0.0.0`` and ``::`` stand for none.
    :param allow_origins: origins (``https://name``) whose pages may use the service, and whose names it may have.
    :raises UntrustedHost: ``Host`` is neither loopback nor ``localhost``, nor one of these.
    """
    host = (value_of(fields, "host") or "").strip().lower()
    if any(host == _authority(origin) for origin in allow_origins):
        return
    found = _HOST.fullmatch(host)
    name = found["name"].strip("[]") if found else ""
    if name == "localhost":
        return
    address = _address(name)
    own = {address for address in map(_address, listens_on) if address and not address.is_unspecified}
    if address is None or not (address.is_loopback or address in own):
        raise UntrustedHost(
            "This service has no users, so it can only be reached by a loopback address, as localhost, or by the "
            "address that it listens on. Use one of these, add a user, or name this origin in allow_origins."
        )


def require_own_origin(fields: Fields, *, allow_origins: Collection[str]) -> None:
    """Refuse a request that a page of another origin made a browser send. Without a browser, none has these fields.

    :raises ForeignOrigin: ``Origin`` is neither ours nor allowed, or ``Sec-Fetch-Site`` is that of another site.
    """
    origin = value_of(fields, "origin")
    site = value_of(fields, "sec-fetch-site")
    if origin is not None:
        origin = origin.strip().lower()
        if origin in map(str.lower, allow_origins):
            return
    host = (value_of(fields, "host") or "").strip().lower()
    is_own_origin = origin is None or (host and origin in (f"http://{host}", f"https://{host}"))
    is_own_site = site is None or site.strip().lower() in _OWN_SITES
    if not (is_own_origin and is_own_site):
        raise ForeignOrigin(
            "This service has no users, so it does not serve web pages of other origins. "
            "Add a user, or name the page's origin in allow_origins."
        )


def _authority(origin: str) -> str:
    return origin.partition("://")[2].lower()


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address in its shortest form: a socket for both versions shows IPv4 peers as ``::ffff:192.0.2.1``."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
