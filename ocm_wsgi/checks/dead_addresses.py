"""Addresses of a reachable host that cannot be connected to, such as its IPv6 addresses where IPv6 is broken."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ocm_wsgi.checks.finding import Finding, Subject
from ocm_wsgi.protocol.http.targets import Origin
from ocm_wsgi.tcp.happy_eyeballs import ATTEMPT_DELAY_SECONDS, Address, addresses_of, connect

_SUBJECT = Subject("reachability")
_TIMEOUT_SECONDS = 3.0
# This machine has no network of that family: attempts fail immediately and cost nothing.
_NO_NETWORK = frozenset({errno.ENETUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def findings(name: str, origin: Origin) -> Iterator[Finding]:
    """Check each address of a host.

    :param name: the host's name for people.
    """
    try:
        addresses = addresses_of(origin.host, origin.port)
    except OSError:
        return  # The name resolved a moment ago.
    with ThreadPoolExecutor(len(addresses)) as pool:
        errors = pool.map(_error, addresses)
    for error in errors:
        if error is not None and error.errno not in _NO_NETWORK:
            text = f"{name} cannot be reached at one of its addresses ({error.strerror}). "
            yield _SUBJECT.warning(
                "dead_address",
                f"{text}A new connection may take {ATTEMPT_DELAY_SECONDS} s longer.",
                "Check this machine's network; if IPv6 does not work, prefer IPv4 in /etc/gai.conf.",
            )


def _error(address: Address) -> OSError | None:
    try:
        connect([address], timeout_seconds=_TIMEOUT_SECONDS).close()
    except OSError as exc:
        return exc
    return None
