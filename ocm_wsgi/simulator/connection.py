"""Accepted TCP connections, and the monitor that detects client disconnects immediately.

A thread that waits for time to pass or for a gate does so on its connection's ``wake`` event, which the monitor sets
when the client disconnects. So nothing polls, and three hundred silent streams cost nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable

from ocm_wsgi.simulator.plans import Gate


class ClientGone(Exception):
    """The client disconnected, or the simulator is stopping."""


class Cut(Exception):
    """The plan closes the connection at this point.

    :param reset: with RST instead of FIN.
    """

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Connection:
    """A connection and the thread that serves it. Only that thread reads and writes."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.socket = sock
        self.number = number
        self.reader: io.BufferedReader = sock.makefile("rb")
        self.wake = threading.Event()
        self.is_gone = False

    def send(self, data: bytes) -> None:
        """Write all of ``data``.

        :raises ClientGone: the connection is no longer writable.
        """
        try:
            self.socket.sendall(data)
        except OSError as exc:
            raise ClientGone from exc

    def wait(self, until: Callable[[], object], *, timeout: float | None = None) -> None:
        """Wait until ``until()`` is true or ``timeout`` seconds have passed. Called again after each wake-up.

        :raises ClientGone: the client disconnected first.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            # Cleared before the conditions are checked, so that no wake-up between check and wait is lost.
            self.wake.clear()
            if self.is_gone:
                raise ClientGone
            remaining = None if deadline is None else deadline - time.monotonic()
            if until() or (remaining is not None and remaining <= 0):
                return
            self.wake.wait(remaining)

    def pass_gate(self, gate: Gate) -> None:
        """Wait until the gate is open.

        :raises ClientGone: the client disconnected first.
        """
        gate.join(self.wake)
        try:
            self.wait(lambda: gate.released)
        finally:
            gate.leave(self.wake)

    def wait_for_hang_up(self, timeout: float | None = None) -> None:
        """Wait until the client disconnects, but no longer than ``timeout`` seconds."""
        with contextlib.suppress(ClientGone):
            self.wait(lambda: False, timeout=timeout)

    def finish_sending(self) -> None:
        """Send FIN (also with TLS, without a closing alert) and continue to read."""
        socket.socket.shutdown(self.socket, socket.SHUT_WR)

    def hang_up(self) -> None:
        """Mark the client as disconnected and wake the waiting thread. Called by other threads."""
        self.is_gone = True
        self.wake.set()

    def shut(self) -> None:
        """Stop all reading and writing, from another thread; the connection's own thread then closes it."""
        self.hang_up()
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which would discard the TLS state that the other thread uses.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    def close_notify(self) -> None:
        """With TLS, send close_notify (RFC 8446 section 6.1) without waiting for the client's."""
        if isinstance(self.socket, ssl.SSLSocket):
            with contextlib.suppress(OSError):
                self.socket.settimeout(0)
                self.socket.unwrap()

    def close(self, *, reset: bool = False) -> None:
        """Close the socket, sending RST with ``reset``."""
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):
            self.reader.close()
        self.socket.close()


class DisconnectMonitor:
    """A thread that detects disconnects on all connections (Linux: ``epoll``)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._stop_reader, self._stop_writer = os.pipe()
        self._epoll.register(self._stop_reader, select.EPOLLIN)
        self._watched: dict[int, Connection] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="simulator-monitor", daemon=True)
        self._thread.start()

    def add(self, connection: Connection) -> None:
        with self._lock:
            descriptor = connection.socket.fileno()
            self._watched[descriptor] = connection
            self._epoll.register(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)

    def remove(self, connection: Connection) -> None:
        """Stop monitoring. Must be called before the connection's socket is closed."""
        with self._lock:
            descriptor = connection.socket.fileno()
            del self._watched[descriptor]
            self._epoll.unregister(descriptor)

    def stop(self) -> None:
        os.write(self._stop_writer, b".")
        self._thread.join()
        self._epoll.close()
        os.close(self._stop_reader)
        os.close(self._stop_writer)

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if descriptor == self._stop_reader:
                    return
                self._notice(descriptor)

    def _notice(self, descriptor: int) -> None:
        with self._lock:
            connection = self._watched.get(descriptor)
            if connection is None:
                return
            # The descriptor may belong to a newer connection than the event.
            if _has_hung_up(descriptor):
                connection.hang_up()
            else:
                self._epoll.modify(descriptor, select.EPOLLRDHUP | select.EPOLLONESHOT)


def _has_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))
