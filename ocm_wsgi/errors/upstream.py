"""Errors of OpenAI's side."""

from __future__ import annotations

import errno

from ocm_wsgi.errors.base import OcmError


class UpstreamError(OcmError):
    """OpenAI's side failed before a response could be relayed."""

    status = 502
    error_type = "api_error"
    code = "upstream_error"


class UpstreamUnreachable(UpstreamError):
    """The connection to upstream failed, or broke before the response began."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Upstream accepted the request but did not respond in time."""

    status = 504
    code = "upstream_timeout"


class UpstreamCut(UpstreamError, ConnectionResetError):
    """Upstream's response broke off after its status had been sent to the client.

    Also a ``ConnectionResetError``, for which a WSGI server logs no traceback. It closes the client's connection
    without the last chunk, so that the client can see that the response is incomplete.
    """

    code = "upstream_cut"

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        UpstreamError.__init__(self, message, detail=detail)
        self.errno = errno.ECONNRESET
