"""A requests transport adapter for upstream that neither adds, changes nor hides anything.

The body of a response is returned as it arrives (see ``response``): ``iter_content`` of an ordinary response waits for
whole chunks, or for the end of a body with a ``Content-Length``. All connections share one TLS context: building one
takes 50 ms of CPU, a handshake with an existing one 3 ms. The connections themselves are in ``connections``.

The side of OpenAI is called *upstream* throughout, as nginx does; RFC 9110 section 3.7 calls it inbound.
"""

from __future__ import annotations

import ssl
import threading
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

from ocm_wsgi.protocol.http.targets import Origin
from ocm_wsgi.upstream.connections import pool_manager
from ocm_wsgi.upstream.exchange import SOCKET_OPTIONS, RequestHead
from ocm_wsgi.upstream.response import BLOCK_SIZE, RawResponse
from ocm_wsgi.upstream.reuse import respond_over


class UpstreamAdapter(HTTPAdapter):
    """Sends prepared requests whose ``headers`` are a :class:`RequestHead`, and nothing else.

    Use it directly, not through a ``Session``: a session shares cookies between users, reads ``.netrc`` and follows
    redirects. Environment proxies are ignored; only the configuration decides about a proxy.

    :param tls: verifies upstream's certificate; shared by all connections.
    :param proxy_url: ``socks5h://``, ``socks4a://``, ``http://`` or ``https://``; ``None`` connects directly.
    :param pool_size: the maximum number of idle connections to one origin.
    """

    def __init__(self, tls: ssl.SSLContext, *, proxy_url: str | None = None, pool_size: int = 256) -> None:
        self._tls = tls
        self._proxy_url = proxy_url
        self._pools: dict[tuple[str, str, int], HTTPConnectionPool] = {}
        self._pools_lock = threading.Lock()
        super().__init__(pool_connections=16, pool_maxsize=pool_size)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Create the pool manager. Called by the base class."""
        options: dict[str, Any] = {
            "num_pools": connections,
            "maxsize": maxsize,
            "block": block,
            "blocksize": BLOCK_SIZE,
            "socket_options": SOCKET_OPTIONS,
            **pool_kwargs,
        }
        self.poolmanager = pool_manager(self._proxy_url, self._tls, options)

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        """Return the pool of connections to the request's origin."""
        origin: Origin = request.origin
        key = (origin.scheme, origin.host, origin.port)
        pool = self._pools.get(key)
        if pool is None:
            with self._pools_lock:
                tls = {"ssl_context": self._tls} if origin.scheme == "https" else {}
                pool = self._pools.setdefault(
                    key,
                    self.poolmanager.connection_from_host(origin.host, origin.port, origin.scheme, pool_kwargs=tls),
                )
        return pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Do nothing: the TLS context always verifies. The base class would load the roots again each time."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """Return the target, in absolute-form for a forwarding proxy (RFC 9112 section 3.2.2)."""
        origin: Origin = request.origin
        head: RequestHead = request.headers
        if origin.scheme == "http" and self._proxy_url is not None and self._proxy_url.startswith("http"):
            head.target = f"http://{origin.authority}{head.target}"
            return head.target
        return "/"  # The connection sends the head's own target, which urllib3 must not normalize.

    def send(self, request: Any, stream: bool = True, timeout: Any = None, *_: Any, **__: Any) -> requests.Response:
        """Send a request and return its response as soon as the head has arrived.

        :param timeout: to connect, and of the silence before the response, in seconds.
        """
        _connect_timeout, read_timeout = timeout
        pool = self.get_connection_with_tls_context(request, True)
        connection = pool.take_idle()
        if connection is None:
            return super().send(request, stream, timeout)
        raw = respond_over(connection, pool, request, read_timeout_seconds=read_timeout)
        return self.build_response(request, raw)

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        """Wrap the response of one of our connections, without reading cookies."""
        return _Response(self, req, resp)


class _Response(requests.Response):
    """A response that has no jar for cookies, and fields only in its raw response."""

    def __init__(self, adapter: UpstreamAdapter, request: requests.PreparedRequest, raw: RawResponse) -> None:
        self._content = False  # type: ignore[assignment]  # as in the base class: it has not been read
        self._content_consumed = False
        self.status_code = raw.status
        self.reason = raw.reason
        self.raw = raw
        self.request = request
        self.connection = adapter


class _OriginRequest(requests.PreparedRequest):
    """A request that bypasses requests' preparation, which normalizes targets and adds fields."""

    origin: Origin


def upstream_request(method: str, origin: Origin, head: RequestHead, body: Any) -> requests.PreparedRequest:
    """Return a request for :class:`UpstreamAdapter`.

    :param body: ``None``, or a readable object at its start; ``head`` contains its length.
    """
    request = _OriginRequest()
    request.method = method
    request.origin = origin
    request.url = f"{origin.scheme}://{origin.authority}/"
    request.headers = head  # type: ignore[assignment]  # the adapter only needs these methods of a mapping
    request.body = body
    return request
