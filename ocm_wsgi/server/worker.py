"""gunicorn's threaded worker, with responses relayed by one event loop.

Threads decide, the loop moves: once upstream has responded, a request's thread makes a stream or a tunnel and is free,
and the loop relays the response. The loop runs in the worker's main thread and replaces gunicorn's selector, too
(``loop_adapters``). It also waits for request heads and closes connections, so that an idle client occupies neither a
thread nor the main thread.

Only this module, ``arrivals``, ``loop_adapters`` and ``request_adapters`` use gunicorn's internals; ``compatibility``
checks that a release still has them.
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

from ocm_wsgi.accounting import tariffs
from ocm_wsgi.gateway.environ import CLIENT_STALL_SECONDS, wants_websocket
from ocm_wsgi.relay.handoff import OpenedTunnel, RelayedBody
from ocm_wsgi.relay.held_memory import HeldMemory
from ocm_wsgi.relay.lingering_close import LingeringClose, reset, shut_down
from ocm_wsgi.relay.loop import Loop
from ocm_wsgi.relay.read_on import ReadOns
from ocm_wsgi.relay.request_arrival import HEAD_SECONDS
from ocm_wsgi.relay.stream import CLIENT_LEFT, Stream, Timeouts
from ocm_wsgi.relay.tunnel import Tunnel
from ocm_wsgi.server import body_arrival, process_limits
from ocm_wsgi.server.arrivals import Arrivals, has_unread
from ocm_wsgi.server.ended_requests import log_end
from ocm_wsgi.server.loop_adapters import MethodQueue, Poller
from ocm_wsgi.server.request_adapters import HandedOver, HandoffMiddleware, TimedBody, is_framed
from ocm_wsgi.server.request_threads import RequestThreads
from ocm_wsgi.server.response_heads import response_head
from ocm_wsgi.server.thread_pool import ThreadPool
from ocm_wsgi.server.unsent_response import UnsentResponse, UnsentResponses, send_now
from ocm_wsgi.service import Service
from ocm_wsgi.upstream.client import SILENCE_TIMEOUT_SECONDS

#: Streams that are still open this long before gunicorn would kill the worker are cut, and recorded as cut.
CUT_MARGIN_SECONDS = 2.0
#: How long a stopping worker waits for requests that may already be in transit; gunicorn's own figure.
LAST_REQUEST_SECONDS = 2.0
#: How often to notify the master, which waits for ``timeout``.
NOTIFY_SECONDS = 1.0

# The result of a request whose connection can serve another.
_KEEP_ALIVE: Future[bool] = Future()
_KEEP_ALIVE.set_result(True)

_TIMEOUTS = Timeouts(stall_seconds=CLIENT_STALL_SECONDS, silence_seconds=SILENCE_TIMEOUT_SECONDS)


class RelayWorker(gthread.ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serves any WSGI application as its base class does, but relays responses in an event loop.

    :ivar deadlines: for each connection that a thread reads from, when the data must have arrived.
    """

    wsgi: Any
    poller: Any

    def init_process(self) -> None:
        """Run the worker; called in the new process."""
        self.loop = Loop()
        self.method_queue = MethodQueue(self.loop)
        self.deadlines: dict[Any, float] = {}
        self._threads = RequestThreads(self.loop, self.cfg.threads)
        self._arrivals = Arrivals(
            self.loop,
            self.cfg,
            submit=self._threads.shake_hands,
            user_of=self._threads.senders.user_of,
            on_arrived=self._arrived,
            on_refused=self._close_gracefully,
            on_disconnect=self._close_immediately,
        )
        self._bodies = body_arrival.BodyArrivals(self.loop, on_arrived=self._arrived)
        self._unsent = UnsentResponses(self.loop, on_sent=self._finish, on_disconnect=self._close_immediately)
        self._streams: set[Stream] = set()
        self._tunnels: set[Tunnel] = set()
        self._held_memory = HeldMemory()
        self._read_ons = ReadOns()
        self._stopping_since: float | None = None
        self._is_aborting = False
        self._notify_at = 0.0
        # gunicorn reads about thirty settings per request, each through two function calls.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        process_limits.raise_descriptor_limit()
        process_limits.preallocate_descriptor_table(2 * self.cfg.worker_connections + self.cfg.threads)
        process_limits.share_heap()
        super().init_process()

    def run(self) -> None:
        """Serve until asked to stop, and then until everything has ended or the grace period is over."""
        self.poller.close()
        self.poller = Poller(self.loop)
        self.loop.add(self)
        # If the application is wrapped, its users are not known, and threads wait for their bodies.
        self._service: Service | None = getattr(self.wsgi, "extensions", {}).get("ocm")
        self.wsgi = HandoffMiddleware(self.wsgi, threads=self.cfg.threads)
        tariffs.load()
        # What is loaded now stays loaded, so the garbage collector need not traverse it repeatedly.
        gc.collect()
        gc.freeze()
        super().run()
        self._abort_all()
        self.loop.run_batch()
        self._threads.shutdown_admission()

    def notify(self) -> None:
        """Notify the master at most once a second; gunicorn would at each request, with a system call each time."""
        now = time.monotonic()
        if now >= self._notify_at:
            self._notify_at = now + NOTIFY_SECONDS
            super().notify()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Dispatch the events of gunicorn's sockets and of our own."""
        self.loop.run(timeout)

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection; called in the main thread."""
        try:
            super().accept(listener)
        except OSError as exc:
            # No descriptor or memory left. Accept again when a connection has been closed, or after a second.
            self.log.warning("Cannot accept a connection: %s", exc)
            self.set_accept_enabled(False)
        if self.nr_conns >= self.worker_connections:
            self.loop.interrupt()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop after the responses in progress; called on TERM."""
        if self._stopping_since is None:
            self._stopping_since = time.monotonic()
        super().handle_exit(sig, frame)
        self.loop.defer(self.loop.interrupt)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop as on TERM; a second signal cuts the responses in progress. Called on QUIT and INT.

        Ctrl-C in a terminal reaches the workers twice within a moment, directly and through the master.
        """
        if self._stopping_since is not None and time.monotonic() - self._stopping_since > 1:
            self._stopping_since = -math.inf
        self.handle_exit(signal.SIGTERM, frame)

    def check(self, now: float) -> None:
        """Enforce deadlines; called by the loop twice a second."""
        for conn, deadline in list(self.deadlines.items()):
            if now > deadline:
                shut_down(conn.sock)
        if not self.alive:
            self._check_stopping(now)

    def _check_stopping(self, now: float) -> None:
        if self._stopping_since is None:
            self._stopping_since = now
        self._arrivals.wait_at_most_until(self._stopping_since + LAST_REQUEST_SECONDS)
        for tunnel in list(self._tunnels):
            tunnel.close_when_idle()
        grace = self.cfg.graceful_timeout
        if now > self._stopping_since + grace - min(CUT_MARGIN_SECONDS, grace / 2):
            self._abort_all()

    def _abort_all(self) -> None:
        """Cut everything that is still open; threads that wait for upstream notice that their clients are gone."""
        self._is_aborting = True
        for stream in list(self._streams):
            stream.abort("service stopped")
        for tunnel in list(self._tunnels):
            tunnel.abort("service stopped")
        self._bodies.abort_all()
        self._unsent.abort_all()
        self._read_ons.abort()
        for conn in list(self.deadlines):
            shut_down(conn.sock)

    def enqueue_req(self, conn: Any) -> None:
        """Wait for a request before occupying a thread with it; called in the main thread when one may arrive."""
        self._arrivals.expect(conn)

    def _arrived(self, conn: Any, user: str) -> None:
        serve, cancel = partial(self._serve, conn), partial(self._close_immediately, conn)
        self._threads.serve(conn, user, serve, cancel=cancel)

    def get_thread_pool(self) -> ThreadPool:
        """Return the pool of request threads; called once, in the new process."""
        return self._threads.pool

    def _serve(self, conn: Any) -> None:
        """Handle a request in a thread, and pass the result to the main thread."""
        result = False
        try:
            result = self.handle(conn)
        finally:
            self.loop.defer(partial(self._finish, conn, result))

    def handle(self, conn: Any) -> Any:
        """Handle a request in a thread; the return value is for :meth:`_finish`."""
        began = datetime.now()
        self.deadlines[conn] = time.monotonic() + HEAD_SECONDS
        try:
            return send_now(conn, keeps_alive=bool(super().handle(conn)))
        except body_arrival.BodyAwaited as awaited:
            return awaited.body
        except HandedOver as handed:
            if isinstance(handed.body, OpenedTunnel):
                return self._make_tunnel(conn, handed.body, handed, began)
            return self._make_stream(conn, handed.body, handed, began)
        finally:
            self.deadlines.pop(conn, None)
            body_arrival.leave_source(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """Handle a request whose head has been read; called in a thread."""
        self.deadlines[conn] = math.inf
        body_arrival.require_body(conn, req, self._service)
        if conn.sock.gettimeout() == 0:
            # A part of the body has been looked for. If the application reads the rest, it waits for that.
            conn.sock.settimeout(CLIENT_STALL_SECONDS)
        req.body = TimedBody(req.body, self.deadlines, conn)
        return super().handle_request(req, conn)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Refuse an invalid request, unless its client would have to be waited for; called in a thread."""
        with contextlib.suppress(OSError):
            client.setblocking(False)
        super().handle_error(req, client, addr, exc)

    def _make_stream(self, conn: Any, body: RelayedBody, handed: HandedOver, began: datetime) -> Stream:
        """Return a stream that is ready to be started in the loop."""
        response, environ = handed.response, handed.environ
        self._threads.senders.learn(environ, body.user)
        try:
            head = response_head(response)
            keeps_alive = not response.should_close()
        except BaseException:
            body.abandon(CLIENT_LEFT)
            raise
        holds_head = wants_websocket(environ)
        if not self.log.access_log_enabled:
            # Only gunicorn's access log needs these later, and a stream may be open for long.
            environ.clear()
            response.headers.clear()

        def on_end(end: str) -> None:
            self._streams.discard(stream)
            log_end(self, body, response, environ, began, sent_bytes=stream.sent_bytes, end=end)
            self._stream_ended(conn, response, is_complete=not end, keeps_alive=keeps_alive)

        stream = Stream(
            self.loop,
            body.raw,
            conn.sock,
            head=head,
            is_chunked=response.chunked,
            turn=body.turn,
            timeouts=_TIMEOUTS,
            holds_head=holds_head,
            read_ons=self._read_ons,
            user=body.user,
            defer=self.loop.defer,
            on_end=on_end,
        )
        return stream

    def _make_tunnel(self, conn: Any, opened: OpenedTunnel, handed: HandedOver, began: datetime) -> Any:
        """Return a tunnel that is ready to be started in the loop, or false if the client left.

        Sends upstream's handshake response itself, because gunicorn would add fields.
        """
        response, environ = handed.response, handed.environ
        self._threads.senders.learn(environ, opened.user)
        try:
            conn.sock.sendall(opened.answer.head())
        except BaseException as exc:
            opened.abandon(CLIENT_LEFT)
            if isinstance(exc, OSError):
                return False
            raise

        def on_end(end: str) -> None:
            self._tunnels.discard(tunnel)
            log_end(self, opened, response, environ, began, sent_bytes=tunnel.sent_bytes, end=end)
            self._close_gracefully(conn)

        tunnel = Tunnel(
            self.loop,
            opened.session,
            opened.turns,
            upstream=opened.upstream,
            client=conn.sock,
            early=conn.parser.unreader.take_buffered(),
            timeouts=_TIMEOUTS,
            held=self._held_memory.share(opened.user),
            read_ons=self._read_ons,
            submit=partial(self._threads.decide_message, opened.user),
            defer=self.loop.defer,
            on_end=on_end,
        )
        return tunnel

    def _finish(self, conn: Any, result: Any) -> None:
        """Continue in the main thread with the result of a request's thread."""
        if isinstance(result, Stream):
            self._streams.add(result)
            self._start(result)
        elif isinstance(result, Tunnel):
            self._tunnels.add(result)
            self._start(result)
        elif isinstance(result, body_arrival.IncompleteBody):
            self._bodies.expect(result)
        elif isinstance(result, UnsentResponse):
            self._unsent.send(result)
        elif result:
            self._keep_alive(conn)
        else:
            self._close_gracefully(conn)

    def _start(self, relay: Stream | Tunnel) -> None:
        relay.start()
        if self._is_aborting:
            relay.abort("service stopped")

    def _stream_ended(self, conn: Any, response: Any, *, is_complete: bool, keeps_alive: bool) -> None:
        if is_complete and keeps_alive:
            self._keep_alive(conn)
        elif is_complete or is_framed(response):
            self._close_gracefully(conn)
        else:
            reset(conn.sock)
            self._forget_connection()

    def _keep_alive(self, conn: Any) -> None:
        """Expect the next request on a connection, which may already have arrived with the previous one."""
        if has_unread(conn.sock):
            self.enqueue_req(conn)
        else:
            self.finish_request(conn, _KEEP_ALIVE)

    def _close_gracefully(self, conn: Any) -> None:
        """Close without blocking: gunicorn's own close can take two seconds, during which the loop would stall."""
        if self._is_aborting:
            self._close_immediately(conn)
        else:
            LingeringClose(self.loop, conn.sock, self._forget_connection).start()

    def _close_immediately(self, conn: Any) -> None:
        conn.close()
        self._forget_connection()

    def _forget_connection(self) -> None:
        self.nr_conns -= 1
        if not self._accepting:
            # gunicorn's own loop waits for this, to accept again or to exit.
            self.loop.interrupt()
