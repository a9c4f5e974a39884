"""How octets reach upstream: a requests transport adapter that neither adds, changes nor hides anything.

The response is handed out as it arrives: ``iter_content`` of a plain response waits for whole chunks, or to the end
of a body with a ``Content-Length``. All connections share one TLS context: building one costs 50 ms of CPU, a
handshake with a ready one 3 ms. What the connections themselves do differently is in ``connections.py``.

The side of OpenAI is called *upstream* throughout, as nginx does; RFC 9110 section 3.7 calls it inbound.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.response import BaseHTTPResponse

from ocm_wsgi.connections import BLOCK_SIZE, SOCKET_OPTIONS, RequestHead, pool_manager
from ocm_wsgi.fields import Fields
from ocm_wsgi.targets import Origin


class ArrivingBody:
    """The body of a response, handed out as it arrives and undecoded. Stands in for urllib3's response in requests.

    ``requests.Response.iter_content`` takes its pieces from :meth:`stream`.
    """

    def __init__(self, response: BaseHTTPResponse) -> None:
        self._response = response

    def stream(self, amount: int | None = BLOCK_SIZE, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield what is there, as soon as anything is: at most ``amount`` octets at a time, never decoded.

        ``decode_content`` is requests' wish to decode; fields that describe an encoded body would then lie.
        """
        while piece := self._response.read1(amount or BLOCK_SIZE, decode_content=False):
            yield piece

    def drain(self) -> None:
        """Read the end of a body that has none (HEAD, 204, 304): only then can the connection be used again."""
        self._response.read(decode_content=False)

    def close(self) -> None:
        """Give the connection up, or back to the pool when the body was read to its end."""
        self._response.close()

    def release_conn(self) -> None:
        """Called by requests when it closes a response."""
        self._response.release_conn()

    @property
    def field_lines(self) -> Fields:
        """The response's fields as they came, repeated ones apart."""
        return list(self._response.headers.iteritems())

    def bare(self) -> BareBody | None:
        """Hand out the body as it is on the wire, of which nothing has been read yet, in place of :meth:`stream`.

        :return: ``None`` where the connection is none that one could wait for (TLS within TLS).
        """
        original: Any = getattr(self._response, "_original_response", None)
        # A connection that ends with its response is the response's alone; http.client has let go of it.
        connection: Any = getattr(getattr(original.fp, "raw", None), "_sock", None) if original else None
        if not isinstance(connection, socket.socket):
            return None
        connection.setblocking(False)
        try:
            buffered: bytes = original.fp.peek()
        except (ssl.SSLWantReadError, BlockingIOError):
            buffered = b""
        return BareBody(self, original, connection, buffered)


class BareBody:
    """A response's body on the wire, for who waits for many at once. Its socket does not block.

    :ivar buffered: octets that were read off the socket already.
    """

    def __init__(self, body: ArrivingBody, original: Any, connection: socket.socket, buffered: bytes) -> None:
        self._body = body
        self._original = original
        self.socket = connection
        self.buffered = buffered
        self.is_chunked = bool(original.chunked)
        self.length: int | None = original.length

    def give_back(self) -> None:
        """The body was read to its end: the connection may serve another request."""
        self._original.close()
        self._body.release_conn()

    def close(self) -> None:
        """End the request at upstream; after :meth:`give_back` it does nothing."""
        self._body.close()
        self._body.release_conn()


class UpstreamAdapter(HTTPAdapter):
    """Sends prepared requests whose ``headers`` are a :class:`RequestHead`, and nothing else.

    Use it directly, not through a ``Session``: a session keeps cookies between users, reads ``.netrc`` and follows
    redirects. Environment proxies are not looked at; the way out was decided by the configuration.

    :param tls: for upstream's certificate; shared by all connections.
    :param proxy_url: ``socks5h://``, ``socks4a://``, ``http://`` or ``https://``, or ``None`` for a direct way.
    :param pool_size: connections kept open while idle, for one origin.
    """

    def __init__(self, tls: ssl.SSLContext, *, proxy_url: str | None = None, pool_size: int = 256) -> None:
        self._tls = tls
        self._proxy_url = proxy_url
        self._pools: dict[tuple[str, str, int], HTTPConnectionPool] = {}
        self._pools_lock = threading.Lock()
        super().__init__(pool_connections=16, pool_maxsize=pool_size)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Called by the base class to make what makes connections."""
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
        """The pool of connections to the request's origin."""
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
        """Nothing to do: the TLS context verifies, always. The base class would load the roots again each time."""

    def request_url(self, request: Any, proxies: Any) -> str:
        """The target; in absolute-form towards a forwarding proxy (RFC 9112 section 3.2.2)."""
        origin: Origin = request.origin
        head: RequestHead = request.headers
        if origin.scheme == "http" and self._proxy_url is not None and self._proxy_url.startswith("http"):
            head.target = f"http://{origin.authority}{head.target}"
            return head.target
        return "/"  # The connection sends the head's own target, which urllib3 must not normalise.

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        """Wrap urllib3's response, without reading cookies."""
        response = requests.Response()
        response.status_code = resp.status
        response.reason = resp.reason
        response.raw = ArrivingBody(resp)
        response.request = req
        response.connection = self
        return response


class _OriginRequest(requests.PreparedRequest):
    """A prepared request that was not prepared: requests' preparation normalises targets and adds fields."""

    origin: Origin


def upstream_request(method: str, origin: Origin, head: RequestHead, body: Any) -> requests.PreparedRequest:
    """Make a request for :class:`UpstreamAdapter`.

    :param body: ``None``, or something with ``read`` that stands at its beginning; ``head`` says its length.
    """
    request = _OriginRequest()
    request.method = method
    request.origin = origin
    request.url = f"{origin.scheme}://{origin.authority}/"
    request.headers = head  # type: ignore[assignment]  # a mapping, as far as the adapter is concerned
    request.body = body
    return request
