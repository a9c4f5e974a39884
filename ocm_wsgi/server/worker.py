"""gunicorn's threaded worker, with the bytes of responses moved by one event loop.

Threads decide, the loop moves: once upstream has answered, a request's thread sends the response's head and is free,
and the rest of the response is the loop's. The loop runs in the worker's main thread and does gunicorn's own waiting,
too (``gunicorn_loop``); it waits for the heads of requests and closes connections, so that no client holds a thread or
the main thread by doing nothing.

What this service needs of gunicorn's inside is here, in ``gunicorn_loop`` and in ``handing_over``; ``gunicorn_inside``
knows whether a release still has it.
"""

from __future__ import annotations

import contextlib
import gc
import math
import signal
import socket
import time
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from typing import Any

from gunicorn.workers import gthread

from ocm_wsgi.accounting import pricing
from ocm_wsgi.relay.handoff import OpenedTunnel, RelayedBody
from ocm_wsgi.relay.lingering_close import LingeringClose, reset
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.request_arrival import HEAD_SECONDS, RequestArrival
from ocm_wsgi.relay.stream import CLIENT_LEFT, Stream, Timeouts
from ocm_wsgi.relay.tunnel import Tunnel
from ocm_wsgi.server import process_limits
from ocm_wsgi.server.loop_adapters import MethodQueue, Poller
from ocm_wsgi.server.request_adapters import HandedOver, HandoffMiddleware, Head, TimedBody
from ocm_wsgi.server.thread_pool import ThreadPool
from ocm_wsgi.upstream.client import SILENCE_TIMEOUT_SECONDS
from ocm_wsgi.wsgi.environ import CLIENT_STALL_SECONDS, wants_websocket

#: What is still open so long before gunicorn would kill the worker is cut, and recorded as cut.
CUT_MARGIN_SECONDS = 2.0
#: A stopping worker waits so long for requests that clients may be sending already; gunicorn's own figure.
LAST_REQUEST_SECONDS = 2.0
#: The master need not hear of us more often; it waits for ``timeout``.
NOTIFY_SECONDS = 1.0

#: Threads that read what clients ask for over WebSockets, and admit it.
ADMISSION_THREADS = 4

#: What gunicorn is told of a request after which its connection can serve another.
_KEEP_ALIVE: Future[bool] = Future()
_KEEP_ALIVE.set_result(True)

_TIMEOUTS = Timeouts(stall_seconds=CLIENT_STALL_SECONDS, silence_seconds=SILENCE_TIMEOUT_SECONDS)


class RelayWorker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves any WSGI application as its base class does, and relayed responses better.

    :ivar deadlines: by when each connection that a thread reads from must have sent what is read.
    """

    wsgi: Any
    poller: Any

    def init_process(self) -> None:
        """Called in the new process; returns at its end."""
        self.loop = Loop()
        self.method_queue = MethodQueue(self.loop)
        self.deadlines: dict[Any, float] = {}
        self._arrivals: set[RequestArrival] = set()
        self._streams: set[Stream] = set()
        self._tunnels: set[Tunnel] = set()
        self._admission_pool = ThreadPool(ADMISSION_THREADS, "ocm-admission")
        self._stopping_since: float | None = None
        self._is_cutting = False
        self._notify_at = 0.0
        # gunicorn asks for some thirty settings a request, each by way of two functions.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        process_limits.raise_descriptor_limit()
        process_limits.make_room_for_descriptors(2 * self.cfg.worker_connections + self.cfg.threads)
        process_limits.share_heap()
        super().init_process()

    def run(self) -> None:
        """Serve until told to stop, and then until all is done or the time is up."""
        self.poller.close()
        self.poller = Poller(self.loop)
        self.loop.add(self)
        self.wsgi = HandoffMiddleware(self.wsgi)
        pricing.load()
        # What was loaded stays: the collector need not look at it again and again while streams wait.
        gc.collect()
        gc.freeze()
        super().run()
        self._cut_all()
        self._admission_pool.shutdown(cancel_futures=True)

    def notify(self) -> None:
        """Tell the master that we live: gunicorn would at each request, and it is a system call on a file."""
        now = time.monotonic()
        if now >= self._notify_at:
            self._notify_at = now + NOTIFY_SECONDS
            super().notify()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Serve gunicorn's sockets and our own."""
        self.loop.run(timeout)

    def accept(self, listener: socket.socket) -> None:
        """Called in the main thread when somebody has connected."""
        try:
            super().accept(listener)
        except OSError as exc:
            # No descriptor or memory left. Whoever waits is accepted when something was given back, or after a second.
            self.log.warning("A connection cannot be accepted: %s", exc)
            self.set_accept_enabled(False)
        if self.nr_conns >= self.worker_connections:
            self.loop.interrupt()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Called on TERM: let what runs come to its end."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
        super().handle_exit(sig, frame)
        self.loop.defer(self.loop.interrupt)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Called on QUIT and INT: as on TERM; a second one, by someone in a hurry, cuts what is left.

        Ctrl-C in a terminal reaches the workers twice within a moment, by itself and by way of the master.
        """
        if self._stopping_since is not None and time.monotonic() - self._stopping_since > 1:
            self._stopping_since = -math.inf
        self.handle_exit(signal.SIGTERM, frame)

    def check(self, now: float) -> None:
        """Called by the loop twice a second: end what took too long."""
        for conn, deadline in list(self.deadlines.items()):
            if now > deadline:
                _shut_down(conn.sock)
        if not self.alive:
            self._check_stopping(now)

    def _check_stopping(self, now: float) -> None:
        if self._stopping_since is None:
            self._stopping_since = now
        for arrival in self._arrivals:
            arrival.wait_at_most_until(self._stopping_since + LAST_REQUEST_SECONDS)
        for tunnel in list(self._tunnels):
            tunnel.close_when_idle()
        grace = self.cfg.graceful_timeout
        if now > self._stopping_since + grace - min(CUT_MARGIN_SECONDS, grace / 2):
            self._cut_all()

    def _cut_all(self) -> None:
        """End what is still open; threads that wait for upstream notice that their clients are gone."""
        self._is_cutting = True
        for stream in list(self._streams):
            stream.abort("service stopped")
        for tunnel in list(self._tunnels):
            tunnel.abort("service stopped")
        for conn in list(self.deadlines):
            _shut_down(conn.sock)

    def enqueue_req(self, conn: Any) -> None:
        """Called in the main thread when a request may be coming: see to it that it is there."""
        is_opaque = bool(self.cfg.is_ssl)
        received = conn.parser.unreader.take_buffered() if conn.parser and not is_opaque else b""

        def arrived(received: bytes) -> None:
            self._arrivals.discard(arrival)
            conn.data_ready = True
            if received:
                conn.init()
                conn.parser.unreader.unread(received)
            self.tpool.submit(partial(self._serve, conn))

        def gone() -> None:
            self._arrivals.discard(arrival)
            self._close_at_once(conn)

        arrival = RequestArrival(self.loop, conn.sock, received, is_opaque=is_opaque, on_arrived=arrived, on_gone=gone)
        self._arrivals.add(arrival)
        arrival.start()

    def get_thread_pool(self) -> ThreadPool:
        """Called once, in the new process."""
        return ThreadPool(self.cfg.threads, "ocm-request")

    def _serve(self, conn: Any) -> None:
        """In a thread: handle a request, and leave the rest to the main thread."""
        result = False
        try:
            result = self.handle(conn)
        finally:
            self.loop.defer(partial(self._finish, conn, result))

    def handle(self, conn: Any) -> Any:
        """Handle a request, in a thread. What is returned goes to :meth:`_finish`."""
        began = datetime.now()
        self.deadlines[conn] = time.monotonic() + HEAD_SECONDS
        try:
            return super().handle(conn)
        except HandedOver as handed:
            if isinstance(handed.body, OpenedTunnel):
                return self._make_tunnel(conn, handed.body, handed, began)
            return self._make_stream(conn, handed.body, handed, began)
        finally:
            self.deadlines.pop(conn, None)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Called in a thread when the head of a request was read."""
        self.deadlines[conn] = math.inf
        # Bounds each write of a response that is not relayed, too.
        conn.sock.settimeout(CLIENT_STALL_SECONDS)
        req.body = TimedBody(req.body, self.deadlines, conn)
        return super().handle_request(req, conn)

    def _make_stream(self, conn: Any, body: RelayedBody, handed: HandedOver, began: datetime) -> Any:
        """Return a stream that is ready to be started in the loop, or false if the client left."""
        response, environ = handed.response, handed.environ
        response.sock = head = Head()
        try:
            response.send_headers()
            keeps_alive = not response.should_close()
        except BaseException as exc:
            body.abandon(CLIENT_LEFT)
            if isinstance(exc, OSError):
                return False
            raise
        head_waits = wants_websocket(environ)
        if not self.log.access_log_enabled:
            # Only gunicorn's own log would look at these again, and a stream may be open for long.
            environ.clear()
            response.headers.clear()

        def ended(end: str) -> None:
            self._streams.discard(stream)
            response.sent = stream.sent_bytes
            body.log(body_bytes=stream.sent_bytes, end=end)
            self.log.access(response, response.req, environ, datetime.now() - began)
            self._stream_ended(conn, response, is_whole=not end, keeps_alive=keeps_alive)

        stream = Stream(
            self.loop,
            body.raw,
            conn.sock,
            head=head.sent_bytes,
            is_chunked=response.chunked,
            turn=body.turn,
            timeouts=_TIMEOUTS,
            head_waits=head_waits,
            defer=self.loop.defer,
            on_end=ended,
        )
        return stream

    def _make_tunnel(self, conn: Any, opened: OpenedTunnel, handed: HandedOver, began: datetime) -> Any:
        """Send upstream's answer as it is, for gunicorn would add fields; return a tunnel that is ready to be started.

        Returns false if the client left.
        """
        response, environ = handed.response, handed.environ
        try:
            conn.sock.sendall(opened.answer.head())
        except BaseException as exc:
            opened.abandon(CLIENT_LEFT)
            if isinstance(exc, OSError):
                return False
            raise

        def ended(end: str) -> None:
            self._tunnels.discard(tunnel)
            response.sent = tunnel.sent_bytes
            opened.log(body_bytes=tunnel.sent_bytes, end=end)
            self.log.access(response, response.req, environ, datetime.now() - began)
            self._close_gracefully(conn)

        tunnel = Tunnel(
            self.loop,
            opened.session,
            opened.turns,
            upstream=opened.upstream,
            client=conn.sock,
            early=conn.parser.unreader.take_buffered(),
            timeouts=_TIMEOUTS,
            submit=self._admission_pool.submit,
            defer=self.loop.defer,
            on_end=ended,
        )
        return tunnel

    def _finish(self, conn: Any, result: Any) -> None:
        """In the main thread: go on with what a request's thread has come to."""
        if isinstance(result, Stream):
            self._streams.add(result)
            self._start(result)
        elif isinstance(result, Tunnel):
            self._tunnels.add(result)
            self._start(result)
        elif result:
            self.finish_request(conn, _KEEP_ALIVE)
        else:
            self._close_gracefully(conn)

    def _start(self, relay: Stream | Tunnel) -> None:
        relay.start()
        if self._is_cutting:
            relay.abort("service stopped")

    def _stream_ended(self, conn: Any, response: Any, *, is_whole: bool, keeps_alive: bool) -> None:
        if is_whole and keeps_alive:
            self.finish_request(conn, _KEEP_ALIVE)
        elif is_whole or _is_framed(response):
            self._close_gracefully(conn)
        else:
            reset(conn.sock)
            self._forget_connection()

    def _close_gracefully(self, conn: Any) -> None:
        """Close without waiting: gunicorn's own way can take two seconds, in which nobody else is served."""
        if self._is_cutting:
            self._close_at_once(conn)
        else:
            LingeringClose(self.loop, conn.sock, self._forget_connection).start()

    def _close_at_once(self, conn: Any) -> None:
        conn.close()
        self._forget_connection()

    def _forget_connection(self) -> None:
        self.nr_conns -= 1
        if not self._accepting:
            # gunicorn's own loop waits for this: to accept again, or to end.
            self.loop.interrupt()


def _is_framed(response: Any) -> bool:
    """Whether a client can tell a cut body from a whole one."""
    return bool(response.chunked) or response.response_length is not None


def _shut_down(connection: socket.socket) -> None:
    """Wake whoever reads from a connection, under TLS too."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
