"""The listen fields, read back from real sockets: the listener and a connection that it accepted."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from ocm_wsgi.config import Config, load
from ocm_wsgi.server import listener
from ocm_wsgi.server.listener import open_listener

SO_MARK, SO_PROTOCOL, SO_NETNS_COOKIE, IPPROTO_MPTCP = 36, 38, 71, 262


def configured(folder: Path, **values: str) -> Config:
    """Return a configuration on an ephemeral port with these keys set."""
    environ = {f"OCM_{key.upper()}": value for key, value in {"listen_port": "0", **values}.items()}
    return load(environ={"HOME": str(folder), **environ}, cwd=folder)


@contextmanager
def accepted(listening: socket.socket) -> Iterator[socket.socket]:
    """Connect to a listening socket and yield the accepted connection."""
    listening.settimeout(10)
    with socket.create_connection(listening.getsockname()[:2], timeout=10):
        connection, _ = listening.accept()
        with connection:
            yield connection


def option(sock: socket.socket, level: int, name: int) -> int:
    return sock.getsockopt(level, name)


def test_open_listener_keeps_connections_alive_by_default(tmp_path: Path) -> None:
    """sing-box's defaults of five minutes and 75 seconds are set on the listener and on accepted connections."""
    with closing(open_listener(configured(tmp_path))) as listening, accepted(listening) as connection:
        for sock in (listening, connection):
            assert option(sock, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert option(sock, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 300
            assert option(sock, socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 75


def test_open_listener_honours_keep_alive_times(tmp_path: Path) -> None:
    """Keep-alive times are set on the connection, rounded up to whole seconds."""
    config = configured(tmp_path, tcp_keep_alive="1m30s", tcp_keep_alive_interval="1.2s")
    with closing(open_listener(config)) as listening, accepted(listening) as connection:
        assert option(connection, socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 90
        assert option(connection, socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 2


def test_open_listener_disables_keep_alive(tmp_path: Path) -> None:
    """Keep-alive can be turned off."""
    config = configured(tmp_path, disable_tcp_keep_alive="true")
    with closing(open_listener(config)) as listening, accepted(listening) as connection:
        assert option(connection, socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_open_listener_binds_interface_and_mark(tmp_path: Path) -> None:
    """Interface and routing mark are set on the listener and on accepted connections."""
    config = configured(tmp_path, bind_interface="lo", routing_mark="0x1234")
    with closing(open_listener(config)) as listening, accepted(listening) as connection:
        for sock in (listening, connection):
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"
            assert option(sock, socket.SOL_SOCKET, SO_MARK) == 0x1234


def test_open_listener_refuses_unknown_interface(tmp_path: Path) -> None:
    """An interface that does not exist is an error, and no socket is left open."""
    with pytest.raises(OSError, match="No such device"):
        open_listener(configured(tmp_path, bind_interface="nowhere0"))


def test_open_listener_reuses_the_address(tmp_path: Path) -> None:
    """With reuse_addr two sockets can listen on one address; without it the second cannot."""
    with closing(open_listener(configured(tmp_path, reuse_addr="true"))) as first:
        port = str(first.getsockname()[1])
        open_listener(configured(tmp_path, reuse_addr="true", listen_port=port)).close()
        with pytest.raises(OSError, match="Address already in use"):
            open_listener(configured(tmp_path, listen_port=port))


def test_open_listener_enables_fast_open(tmp_path: Path) -> None:
    """tcp_fast_open gives the listener a queue for connections whose SYN carries data."""
    with closing(open_listener(configured(tmp_path, tcp_fast_open="true"))) as listening:
        assert option(listening, socket.IPPROTO_TCP, socket.TCP_FASTOPEN) > 0
    with closing(open_listener(configured(tmp_path))) as listening:
        assert option(listening, socket.IPPROTO_TCP, socket.TCP_FASTOPEN) == 0


def test_open_listener_enables_multipath(tmp_path: Path) -> None:
    """tcp_multi_path opens an MPTCP socket, to which plain TCP clients can connect too."""
    with closing(open_listener(configured(tmp_path, tcp_multi_path="true"))) as listening:
        assert option(listening, socket.SOL_SOCKET, SO_PROTOCOL) == IPPROTO_MPTCP
        with accepted(listening) as connection:
            connection.sendall(b"x")


def test_open_listener_accepts_both_address_families(tmp_path: Path) -> None:
    """A listener on "::" accepts IPv4 too, as in Go."""
    with closing(open_listener(configured(tmp_path, listen="::"))) as listening:
        port = listening.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=10).close()


@contextmanager
def new_namespace() -> Iterator[tuple[Path, int]]:
    """Create a network namespace whose loopback is up, and yield its path and its cookie."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, done = threading.Event(), threading.Event()
    found: list[tuple[Path, int]] = []

    def hold_namespace() -> None:
        assert libc.unshare(0x40000000) == 0, os.strerror(ctypes.get_errno())
        with socket.socket() as sock:
            # SIOCSIFFLAGS takes a struct ifreq, here with IFF_UP.
            fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))
            cookie = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]
        found.append((Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"), cookie))
        ready.set()
        done.wait()

    thread = threading.Thread(target=hold_namespace)
    thread.start()
    try:
        assert ready.wait(10)
        yield found[0]
    finally:
        done.set()
        thread.join()


def cookie(sock: socket.socket) -> int:
    value: int = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0]
    return value


@pytest.mark.parametrize("by", ["path", "name"])
def test_open_listener_enters_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    """The socket is in the namespace given by path or name, and the thread stays in its own."""
    with new_namespace() as (path, expected):
        (tmp_path / "blue").symlink_to(path)
        monkeypatch.setattr(listener, "_NETNS_FOLDER", tmp_path)
        config = configured(tmp_path, netns=str(path) if by == "path" else "blue")
        with closing(open_listener(config)) as listening, socket.socket() as here:
            assert cookie(listening) == expected != cookie(here)
            with pytest.raises(ConnectionRefusedError):
                here.connect(listening.getsockname())


@pytest.mark.parametrize(("netns", "problem"), [("nowhere", "No such file"), ("/dev/null", "Invalid argument")])
def test_open_listener_refuses_an_invalid_namespace(tmp_path: Path, netns: str, problem: str) -> None:
    """A missing file, or one that is not a namespace, is an error that names it."""
    with pytest.raises(OSError, match=problem) as caught:
        open_listener(configured(tmp_path, netns=netns))
    assert netns in str(caught.value)
