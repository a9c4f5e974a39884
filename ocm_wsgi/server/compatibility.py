"""Checks that the installed gunicorn has the internals on which the worker class relies."""

from __future__ import annotations

import inspect

from gunicorn.glogging import Logger
from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import Message
from gunicorn.http.parser import Parser
from gunicorn.http.unreader import SocketUnreader, Unreader
from gunicorn.http.wsgi import Response
from gunicorn.workers import gthread

# Methods that are called or overridden, with the parameters they must have; then attributes and properties.
_METHODS: tuple[tuple[type, str, tuple[str, ...]], ...] = (
    (gthread.ThreadWorker, "init_process", ("self",)),
    (gthread.ThreadWorker, "run", ("self",)),
    (gthread.ThreadWorker, "notify", ("self",)),
    (gthread.ThreadWorker, "wait_for_and_dispatch_events", ("self", "timeout")),
    (gthread.ThreadWorker, "get_thread_pool", ("self",)),
    (gthread.ThreadWorker, "set_accept_enabled", ("self", "enabled")),
    (gthread.ThreadWorker, "accept", ("self", "listener")),
    (gthread.ThreadWorker, "enqueue_req", ("self", "conn")),
    (gthread.ThreadWorker, "handle", ("self", "conn")),
    (gthread.ThreadWorker, "handle_request", ("self", "req", "conn")),
    (gthread.ThreadWorker, "handle_error", ("self", "req", "client", "addr", "exc")),
    (gthread.ThreadWorker, "finish_request", ("self", "conn", "fs")),
    (gthread.ThreadWorker, "handle_exit", ("self", "sig", "frame")),
    (gthread.ThreadWorker, "handle_quit", ("self", "sig", "frame")),
    (gthread.PollableMethodQueue, "defer", ("self", "callback", "args")),
    (gthread.TConn, "init", ("self",)),
    (Response, "should_close", ("self",)),
    (Response, "force_close", ("self",)),
    (Parser, "finish_body", ("self", "deadline", "max_bytes")),
    (Unreader, "unread", ("self", "data")),
    (Unreader, "take_buffered", ("self",)),
)
_ATTRIBUTES: tuple[tuple[type, frozenset[str]], ...] = (
    (gthread.ThreadWorker, frozenset({"nr_conns", "poller", "method_queue", "_accepting", "worker_connections"})),
    (Body, frozenset({"reader"})),
    (LengthReader, frozenset({"length"})),
    (Message, frozenset({"_expected_100_continue"})),
    (Parser, frozenset({"mesg"})),
    (Unreader, frozenset({"buf"})),
    (SocketUnreader, frozenset({"sock"})),
    (gthread.TConn, frozenset({"sock", "parser", "data_ready", "is_http2"})),
    (
        Response,
        frozenset(
            {
                *("chunked", "headers", "headers_sent", "req", "response_length", "sent", "sock", "status"),
                *("upgrade", "version", "_omits_body"),
            }
        ),
    ),
)
_PROPERTIES: tuple[tuple[type, str], ...] = ((Logger, "access_log_enabled"),)


def missing_internals() -> list[str]:
    """Return the internals on which the worker class relies and that the installed gunicorn lacks."""
    missing = []
    for owner, name, parameters in _METHODS:
        method = getattr(owner, name, None)
        if method is None or tuple(inspect.signature(method).parameters) != parameters:
            missing.append(f"{owner.__name__}.{name}({', '.join(parameters[1:])})")
    for owner, names in _ATTRIBUTES:
        code = inspect.getattr_static(owner, "__init__").__code__
        missing += [f"{owner.__name__}.{name}" for name in sorted(names - set(code.co_names))]
    missing += [f"{owner.__name__}.{name}" for owner, name in _PROPERTIES if not hasattr(owner, name)]
    return missing
