"""The threads that decide about requests and WebSocket messages: after open streams, and for all users in turn."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ocm_wsgi.relay.admission_queue import AdmissionQueue
from ocm_wsgi.relay.decision_queue import STRANGER, DecisionQueue
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.server.senders import Senders
from ocm_wsgi.server.thread_pool import ThreadPool

#: Threads that read and admit the turns that clients request over WebSockets.
ADMISSION_THREADS = 4


class RequestThreads:
    """The threads of a worker.

    :param size: the most threads that serve requests.
    :ivar pool: those threads.
    :ivar senders: knows the users of requests before they are decided about.
    """

    def __init__(self, loop: Loop, size: int) -> None:
        self.pool = ThreadPool(size, "ocm-request")
        self.senders = Senders()
        self._admission_pool = ThreadPool(ADMISSION_THREADS, "ocm-admission")
        self._decisions = DecisionQueue(loop)
        self._messages = AdmissionQueue(partial(self._decide, self._admission_pool), loop.defer)

    def serve(self, conn: Any, user: str, serve: Callable[[], None], *, cancel: Callable[[], None]) -> None:
        """Serve a request when it is the user's turn.

        :param cancel: called if that is impossible, because the worker is about to exit.
        """
        if not conn.is_http2:
            self._decisions.submit(user, self.pool.submit, serve, cancel=cancel)
            return
        try:
            # Its thread serves the whole connection, with the requests of many turns.
            self.pool.submit(serve)
        except RuntimeError:
            cancel()

    def shake_hands(self, step: Callable[[], None]) -> None:
        """Take a step of a TLS handshake; nobody knows whose it is."""
        self._decide(self.pool, STRANGER, step)

    def decide_message(self, user: str, decide: Callable[[], None]) -> None:
        """Decide about a WebSocket message, after the others of its user."""
        self._messages.submit(user, decide)

    def shutdown_admission(self) -> None:
        """Drop the messages about which nothing was decided yet; gunicorn shuts the pool of requests down."""
        self._admission_pool.shutdown(cancel_futures=True)

    def _decide(self, pool: ThreadPool, user: str, decide: Callable[[], None]) -> None:
        # Without a thread, because the worker is about to exit, nothing happens.
        self._decisions.submit(user, pool.submit, decide, cancel=lambda: None)
