"""An address that neither accepts nor refuses connections, as behind a broken IPv6 route."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

SILENT = "127.0.0.2"


@contextmanager
def silent_address(port: int = 0) -> Iterator[socket.socket]:
    """Yield a listening socket whose queue is full: the kernel drops all further attempts to connect to it."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((SILENT, port))
        listener.listen(0)
        sockets.enter_context(socket.create_connection(listener.getsockname()))
        yield listener


def resolver(name: str, *addresses: str) -> Callable[..., Any]:
    """Return a stand-in for ``socket.getaddrinfo`` that knows these addresses of a name."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        hosts = addresses if host == name else (host,)
        return [found for each in hosts for found in resolve(each, *arguments, **options)]

    return getaddrinfo
