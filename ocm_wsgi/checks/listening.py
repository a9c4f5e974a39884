"""Whether anything listens at the configured address."""

from __future__ import annotations

import socket

from ocm_wsgi.config import Config

_CONNECT_TIMEOUT_SECONDS = 2.0
# A server bound to all addresses is reachable through loopback.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def is_listening(config: Config) -> bool:
    """Return whether a connection to the service's address is accepted. Sends nothing."""
    address = (_LOOPBACK.get(config.listen, config.listen), config.listen_port)
    try:
        socket.create_connection(address, _CONNECT_TIMEOUT_SECONDS).close()
    except OSError:
        return False
    return True
