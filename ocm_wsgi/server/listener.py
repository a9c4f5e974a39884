"""Opens the listening socket with sing-box's listen fields. On Linux, accepted connections inherit them."""

from __future__ import annotations

import ctypes
import ipaddress
import math
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ocm_wsgi.config import Config

# From Linux's headers; not in Python's socket module in every supported version.
_SO_MARK = 36
_IPPROTO_MPTCP = 262
_CLONE_NEWNET = 0x40000000
_NETNS_FOLDER = Path("/run/netns")  # ip-netns(8) puts named namespaces there
DEFAULT_BACKLOG = 2048  # gunicorn's default
# Pending connections with data in their SYN (RFC 7413); the same number as in Go's tfo listener.
_FAST_OPEN_QUEUE = 256


def open_listener(config: Config, *, backlog: int = DEFAULT_BACKLOG) -> socket.socket:
    """Return a bound and listening TCP socket with the listen fields of the configuration.

    The caller owns it. After an error nothing is left open.

    :raises OSError: the address is in use or not local, the interface or namespace does not exist, or the process
        lacks the capability (``CAP_NET_ADMIN`` for ``routing_mark``, ``CAP_SYS_ADMIN`` for ``netns``).
    """
    if config.netns is None:
        return _open(config, backlog)
    return _in_namespace(config.netns, lambda: _open(config, backlog))


def _open(config: Config, backlog: int) -> socket.socket:
    is_ipv6 = ipaddress.ip_address(config.listen).version == 6
    protocol = _IPPROTO_MPTCP if config.tcp_multi_path else 0
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM, protocol)
    try:
        _set_options(listener, config)
        if is_ipv6:
            # "::" accepts IPv4 as well, as in Go, whatever the system's default.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((config.listen, config.listen_port))
        listener.listen(backlog)
    except BaseException:
        listener.close()
        raise
    return listener


def _set_options(listener: socket.socket, config: Config) -> None:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if config.reuse_addr:
        # sing-box sets both: another process may listen on the same address at the same time.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if config.bind_interface is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, config.bind_interface.encode())
    if config.routing_mark:
        listener.setsockopt(socket.SOL_SOCKET, _SO_MARK, config.routing_mark)
    if config.tcp_fast_open:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, _FAST_OPEN_QUEUE)
    if not config.disable_tcp_keep_alive:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle, interval = config.tcp_keep_alive, config.tcp_keep_alive_interval
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, math.ceil(idle.total_seconds()))
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, math.ceil(interval.total_seconds()))


def _in_namespace(netns: str, action: Callable[[], socket.socket]) -> socket.socket:
    """Call something in a network namespace, from a thread of its own, which need not return from the namespace.

    A socket stays in the namespace in which it was created.
    """
    outcome: list[socket.socket | BaseException] = []

    def enter() -> None:
        try:
            _set_namespace(Path(netns) if "/" in netns else _NETNS_FOLDER / netns)
            outcome.append(action())
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=enter, name="netns")
    thread.start()
    thread.join()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _set_namespace(path: Path) -> None:
    """Move this thread into a network namespace. Python has ``os.setns`` only from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(descriptor)
