"""Logs and counts relayed requests that have ended, in batches: no client waits for that."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ocm_wsgi.gateway.environ import Environ
from ocm_wsgi.relay.handoff import OpenedTunnel, RelayedBody


def log_end(
    worker: Any,
    relayed: RelayedBody | OpenedTunnel,
    response: Any,
    environ: Environ,
    began: datetime,
    *,
    sent_bytes: int,
    end: str,
) -> None:
    """Log and count a request that ends now, soon and together with others, in our log and in gunicorn's access log.

    :param worker: a ``RelayWorker``.
    :param response: gunicorn's.
    :param sent_bytes: of the response's body, or of the tunnel.
    :param end: why it ended abnormally, or ``""``.
    """
    ended, took = worker.loop.now, datetime.now() - began

    def log() -> None:
        relayed.log(body_bytes=sent_bytes, end=end, ended=ended)
        response.sent = sent_bytes
        worker.log.access(response, response.req, environ, took)

    worker.loop.batch(log)
