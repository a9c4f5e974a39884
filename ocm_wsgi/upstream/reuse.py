"""Requests over connections that are open already, without urllib3's ``urlopen``.

Usually a pool has an idle connection. Over that, nothing has to be connected, tunnelled, retried or redirected, which
is what ``urlopen`` and the code of requests around it are for.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
from typing import Any

import requests
from requests.exceptions import SSLError

from ocm_wsgi.upstream.response import RawResponse


class IdleConnections:
    """For urllib3's pools: gives out the connections that :func:`respond_over` can use."""

    proxy: Any

    def take_idle(self) -> Any:
        """Take an open connection out of the pool; ``None`` if there is none.

        Nor is there one with an HTTP proxy, which urllib3 sends further fields, or connects through.
        """
        if self.proxy is not None:
            return None
        connection = self._get_conn()  # type: ignore[attr-defined]  # the other base class has it
        if connection.sock is not None:
            return connection
        self._put_conn(connection)  # type: ignore[attr-defined]  # the other base class has it
        return None


def respond_over(
    connection: Any, pool: Any, request: requests.PreparedRequest, *, read_timeout_seconds: float
) -> RawResponse:
    """Send a request over an open connection, and return the response. Raises what requests would.

    :param pool: gets the connection back.
    :raises requests.RequestException: there is no valid response. The connection was closed.
    """
    try:
        raw = _exchange(connection, request, read_timeout_seconds)
    except BaseException:
        connection.close()
        pool._put_conn(connection)
        raise
    raw.belongs_to(pool)
    return raw


def _exchange(connection: Any, request: requests.PreparedRequest, read_timeout_seconds: float) -> RawResponse:
    try:
        # Upstream may have responded before it closed the connection.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(request.method, "", request.body, request.headers)
        connection.timeout = read_timeout_seconds
        try:
            raw: RawResponse = connection.getresponse()
        except TimeoutError as exc:
            raise requests.ReadTimeout(exc, request=request) from exc
    except ssl.SSLError as exc:
        raise SSLError(exc, request=request) from exc
    except requests.RequestException:
        raise
    except (OSError, http.client.HTTPException) as exc:
        raise requests.ConnectionError(exc, request=request) from exc
    return raw
