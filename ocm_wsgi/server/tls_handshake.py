"""TLS handshakes of clients: their computing is done in threads, and their waiting in the event loop."""

from __future__ import annotations

import select
import ssl
from collections.abc import Callable
from functools import partial

from ocm_wsgi.relay.loop import Loop

#: Time for a client to complete its handshake, from the connect.
HANDSHAKE_SECONDS = 30.0

_DONE = 0
_FAILED = -1


class TlsHandshake:
    """A handshake in progress.

    A thread is needed for milliseconds only, whenever the client has sent something: so a client that sends one byte at
    a time, or nothing more, does not occupy any.

    :param connection: does not block, and has not begun its handshake.
    :param submit: runs something in a thread.
    :param on_done: called in the loop when the handshake is complete.
    :param on_disconnect: called in the loop when it has failed or takes too long.
    """

    def __init__(
        self,
        loop: Loop,
        connection: ssl.SSLSocket,
        *,
        submit: Callable[[Callable[[], None]], None],
        on_done: Callable[[], None],
        on_disconnect: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._fd = connection.fileno()
        self._submit = submit
        self._on_done = on_done
        self._on_disconnect = on_disconnect
        self._until = loop.now + HANDSHAKE_SECONDS
        self._is_in_thread = False

    def start(self) -> None:
        """Wait for the client's first bytes."""
        self._loop.add(self)
        self._wait(select.EPOLLIN)

    def wait_at_most_until(self, until: float) -> None:
        """Shorten the deadline to at most this reading of the monotonic clock."""
        self._until = min(self._until, until)

    def check(self, now: float) -> None:
        """Give up if the client takes too long. A thread that is at work finishes first."""
        if now >= self._until and not self._is_in_thread:
            self._end(self._on_disconnect)

    def _wait(self, mask: int) -> None:
        self._loop.watch(self._fd, mask | select.EPOLLRDHUP, self._on_ready)

    def _on_ready(self, _mask: int) -> None:
        self._loop.forget(self._fd)
        self._is_in_thread = True
        self._submit(self._step)

    def _step(self) -> None:
        """Go as far as possible without waiting; called in a thread."""
        try:
            self._connection.do_handshake()
            waits_for = _DONE
        except ssl.SSLWantReadError:
            waits_for = select.EPOLLIN
        except ssl.SSLWantWriteError:
            waits_for = select.EPOLLOUT
        except (OSError, ValueError):  # ValueError: the client had disconnected before TLS began
            waits_for = _FAILED
        self._loop.defer(partial(self._continue, waits_for))

    def _continue(self, waits_for: int) -> None:
        self._is_in_thread = False
        if waits_for == _DONE:
            self._end(self._on_done)
        elif waits_for == _FAILED:
            self._end(self._on_disconnect)
        else:
            self._wait(waits_for)

    def _end(self, callback: Callable[[], None]) -> None:
        self._loop.discard(self)
        self._loop.forget(self._fd)
        callback()
