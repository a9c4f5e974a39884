"""Connections to hosts with several addresses, some of which are dead."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator

import pytest

from ocm_wsgi.tcp import happy_eyeballs
from ocm_wsgi.tcp.happy_eyeballs import Address, _Attempts, addresses_of, connect
from tests.silent_address import SILENT, resolver, silent_address

#: Far longer than any attempt below takes, even on a busy machine.
LONG_SECONDS = 60.0


def address(host: str, port: int) -> Address:
    """Return an address as the system's resolver does."""
    (found,) = addresses_of(host, port)
    return found


@pytest.fixture
def live() -> Iterator[Address]:
    """An address that accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield address("127.0.0.1", listener.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[Address]:
    """An address that neither accepts nor refuses connections."""
    with silent_address() as listener:
        yield address(*listener.getsockname())


@pytest.fixture
def refusing() -> Address:
    """An address where nothing listens."""
    with socket.create_server(("127.0.0.3", 0)) as listener:
        return address("127.0.0.3", listener.getsockname()[1])


def test_a_silent_address_delays_little(silent: Address, live: Address) -> None:
    """The next address is tried long before the timeout, and the silent one is given up once that accepts."""
    started = time.monotonic()
    descriptors = len(os.listdir("/proc/self/fd"))
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    with connect([silent, live], timeout_seconds=LONG_SECONDS, options=options) as connection:
        assert connection.getpeername() == live.sockaddr
        assert connection.gettimeout() == LONG_SECONDS
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    assert time.monotonic() - started < LONG_SECONDS / 2


def test_a_failing_address_delays_nothing(refusing: Address, live: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a refusal, or without a socket of that family, the next address is tried at once."""
    monkeypatch.setattr(happy_eyeballs, "ATTEMPT_DELAY_SECONDS", LONG_SECONDS)
    unknown = live._replace(family=socket.AF_MAX if hasattr(socket, "AF_MAX") else 200)
    started = time.monotonic()
    with connect([refusing, unknown, live], timeout_seconds=LONG_SECONDS) as connection:
        assert connection.getpeername() == live.sockaddr
    assert time.monotonic() - started < LONG_SECONDS / 2


def test_an_earlier_attempt_may_still_succeed(refusing: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that accepts late, after the others have failed, is used."""
    with silent_address() as listener:
        late = address(*listener.getsockname())
        fail = _Attempts._fail

        def make_room(attempts: _Attempts, failed: Address, error: int) -> None:
            listener.accept()[0].close()  # The kernel tries again a second after its first try.
            fail(attempts, failed, error)

        monkeypatch.setattr(_Attempts, "_fail", make_room)
        with connect([late, refusing], timeout_seconds=LONG_SECONDS) as connection:
            assert connection.getpeername() == late.sockaddr


def test_no_address_accepts(refusing: Address, silent: Address) -> None:
    """The error names each address and what became of it, and is of the last failure's kind."""
    with pytest.raises(ConnectionRefusedError, match=r"127\.0\.0\.3: Connection refused; 127\.0\.0\.3: .*refused"):
        connect([refusing, refusing], timeout_seconds=LONG_SECONDS)
    with pytest.raises(TimeoutError, match=rf"127\.0\.0\.3: Connection refused; {SILENT}: no response") as caught:
        connect([refusing, silent], timeout_seconds=0.5)
    assert caught.value.errno == errno.ETIMEDOUT
    with pytest.raises(TimeoutError, match=rf"{SILENT}: no response; {SILENT}: not tried"):
        connect([silent, silent], timeout_seconds=0)


def test_families_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole family may be dead: the second address is of the other one, and the order is kept otherwise."""
    monkeypatch.setattr(socket, "getaddrinfo", resolver("two.test", "::1", "::2", "::3", "127.0.0.1", "127.0.0.2"))
    assert [str(each) for each in addresses_of("two.test", 1)] == ["::1", "127.0.0.1", "::2", "127.0.0.2", "::3"]
