"""TCP connections to hosts with several addresses: the first that accepts is used (Happy Eyeballs, RFC 8305).

urllib3 tries one address after the other, each with the whole timeout: where IPv6 is broken, every connection to OpenAI
would take 15 s. The mixin brings its connections this. Names are resolved as before, by the system's resolver.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError

#: How long to wait for an address before the next one is tried as well. Source: RFC 8305 section 8.
ATTEMPT_DELAY_SECONDS = 0.25

SocketOption = tuple[int, int, int | bytes]


class Address(NamedTuple):
    """An address of a host, as :func:`socket.getaddrinfo` returns it."""

    family: int
    kind: int
    protocol: int
    canonical_name: str
    sockaddr: tuple[Any, ...]

    def __str__(self) -> str:
        return str(self.sockaddr[0])


def addresses_of(host: str, port: int) -> list[Address]:
    """Return a host's addresses in the order in which to try them: the system's, with the families alternating.

    :raises socket.gaierror: the name does not resolve.
    :raises UnicodeError: it is no valid name.
    """
    found = [Address(*each) for each in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    first = [each for each in found if each.family == found[0].family]
    others = [each for each in found if each.family != found[0].family]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]


def connect(
    addresses: Sequence[Address], *, timeout_seconds: float | None, options: Sequence[SocketOption] = ()
) -> socket.socket:
    """Return a connection to whichever address accepts first. Its timeout is ``timeout_seconds``.

    An address gets a head start of ``ATTEMPT_DELAY_SECONDS`` before the next one, or less if it fails.

    :param timeout_seconds: for all addresses together; ``None`` leaves it to the system.
    :param options: set before connecting.
    :raises TimeoutError: no address has accepted in time.
    :raises OSError: none accepts; of the kind that the last one failed with.
    """
    attempts = _Attempts(addresses, options)
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    try:
        while (connection := attempts.winner(deadline)) is None:
            pass
    finally:
        attempts.close()
    connection.settimeout(timeout_seconds)
    return connection


class _Attempts:
    """Attempts to connect that run at the same time."""

    def __init__(self, addresses: Sequence[Address], options: Sequence[SocketOption]) -> None:
        self._waiting = deque(addresses)
        self._options = options
        self._poller = select.poll()
        self._running: dict[int, tuple[socket.socket, Address]] = {}
        self._failures: list[tuple[Address, int]] = []
        self._next_start = time.monotonic()

    def winner(self, deadline: float | None) -> socket.socket | None:
        """Start an attempt if one is due, and return the connection that is established next, if any is.

        :raises OSError: every address has failed, or the deadline has passed.
        """
        now = time.monotonic()
        if self._waiting and now >= self._next_start:
            self._next_start = now + ATTEMPT_DELAY_SECONDS
            self._start(self._waiting.popleft())
        if not self._waiting and not self._running:
            raise OSError(self._failures[-1][1], self._summary())
        ends = [self._next_start] if self._waiting else []
        ends += [] if deadline is None else [deadline]
        ready = self._poller.poll(max(0.0, min(ends) - now) * 1000 if ends else None)
        if not ready and deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, self._summary())
        for descriptor, _ in ready:
            connection, address = self._running.pop(descriptor)
            self._poller.unregister(descriptor)
            error = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not error:
                return connection
            connection.close()
            self._fail(address, error)
        return None

    def close(self) -> None:
        """Give up the attempts that are still running."""
        for connection, _ in self._running.values():
            connection.close()

    def _start(self, address: Address) -> None:
        try:
            connection = socket.socket(address.family, address.kind, address.protocol)
        except OSError as exc:
            self._fail(address, exc.errno or errno.EAFNOSUPPORT)
            return
        try:
            for option in self._options:
                connection.setsockopt(*option)
            connection.setblocking(False)
            error = connection.connect_ex(address.sockaddr)
        except OSError:
            connection.close()
            raise
        if error not in (0, errno.EINPROGRESS):
            connection.close()
            self._fail(address, error)
            return
        self._running[connection.fileno()] = connection, address
        self._poller.register(connection, select.POLLOUT)

    def _fail(self, address: Address, error: int) -> None:
        self._failures.append((address, error))
        self._next_start = time.monotonic()

    def _summary(self) -> str:
        failed = [f"{address}: {os.strerror(error)}" for address, error in self._failures]
        silent = [f"{address}: no response" for _, address in self._running.values()]
        return "; ".join([*failed, *silent, *(f"{address}: not tried" for address in self._waiting)])


class HappyEyeballsMixin:
    """For urllib3's connections: connects to whichever address accepts first."""

    host: str
    port: int
    timeout: float | None
    socket_options: list[SocketOption] | None
    _dns_host: str

    def _new_conn(self) -> socket.socket:
        """Return a new connection, with urllib3's own exceptions for each failure."""
        try:
            addresses = addresses_of(self._dns_host, self.port)
            connection = connect(addresses, timeout_seconds=self.timeout, options=self.socket_options or ())
        except UnicodeError:
            raise LocationParseError(f"'{self.host}', label empty or too long") from None
        except socket.gaierror as exc:
            raise NameResolutionError(self.host, self, exc) from exc  # type: ignore[arg-type]  # the other base class
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out: {exc.strerror}") from exc
        except OSError as exc:
            raise NewConnectionError(self, f"Connection to {self.host} failed: {exc.strerror}") from exc  # type: ignore[arg-type]
        sys.audit("http.client.connect", self, self.host, self.port)
        return connection
