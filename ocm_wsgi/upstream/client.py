"""The client for OpenAI: selects the base URL, the fields and the credential of a request, and translates failures.

Independent of Flask. This is the only place that translates exceptions of requests and urllib3 to ours.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import requests
from urllib3.exceptions import HTTPError

from ocm_wsgi.credentials import Credential, CredentialSource, Mode
from ocm_wsgi.credentials.unauthorized import request_unauthorized
from ocm_wsgi.errors import (
    CredentialUnavailable,
    UpstreamCut,
    UpstreamError,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from ocm_wsgi.gateway.request_body import Body
from ocm_wsgi.gateway.waiting import WaitsForUpstream
from ocm_wsgi.protocol.http.content_coding import DecodingError, decoder_for
from ocm_wsgi.protocol.http.fields import (
    Fields,
    forwardable_response_fields,
    upstream_request_fields,
    value_of,
)
from ocm_wsgi.protocol.http.response_head import BODILESS_STATUSES
from ocm_wsgi.protocol.http.targets import ApiTarget, Origin
from ocm_wsgi.protocol.responses.error_codes import code_in_fields, error_code
from ocm_wsgi.protocol.responses.outcome import parse_json
from ocm_wsgi.protocol.websocket.handshake import HandshakeResponse, upgrade_request_fields
from ocm_wsgi.upstream.adapter import UpstreamAdapter, upstream_request
from ocm_wsgi.upstream.connections import StaleConnection
from ocm_wsgi.upstream.exchange import Aborted, Exchange, RequestHead
from ocm_wsgi.upstream.response import BLOCK_SIZE, RawResponse

_log = logging.getLogger(__name__)

#: For establishing a connection, including TLS.
CONNECT_TIMEOUT_SECONDS = 15.0
#: The maximum silence of upstream, before and within its response. The Codex client itself waits at most for four times
#: its idle timeout of 300 s, for a compaction.
SILENCE_TIMEOUT_SECONDS = 1200.0
# The body of an error of which only the code matters.
_ERROR_BODY_BYTES = 64 * 1024
_ERROR_BODY_SECONDS = 5.0
#: For the response to an opening handshake, which is either immediate or missing; Codex itself waits for 15 s.
HANDSHAKE_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class ClientRequest:
    """A client's request to upstream.

    :ivar fields: as the client sent them.
    :ivar body: ``None`` for a request without one. The caller closes it.
    :ivar is_upgrade: whether it is the opening handshake of a WebSocket.
    """

    method: str
    target: ApiTarget
    fields: Sequence[tuple[str, str]]
    body: Body | None
    exchange: Exchange = field(default_factory=Exchange)
    is_upgrade: bool = False


class UpstreamResponse:
    """An open response of upstream. The caller closes it.

    :ivar fields: the fields to forward to the client.
    :ivar is_bodiless: whether it has no body, regardless of its fields (RFC 9112 section 6.3).
    """

    def __init__(self, response: requests.Response, request: ClientRequest) -> None:
        self._response = response
        self._raw: RawResponse = response.raw  # type: ignore[assignment]  # the adapter put it there
        self.exchange = request.exchange
        self.status: int = response.status_code
        self.reason: str = response.reason or ""
        self._field_lines = self._raw.field_lines
        self.fields: Fields = forwardable_response_fields(self._field_lines)
        self.is_bodiless = request.method == "HEAD" or self.status in BODILESS_STATUSES
        if self.is_bodiless:
            self._raw.give_back()

    def replace_fields(self, change: Callable[[Fields], Fields]) -> None:
        """Change the fields that the client gets."""
        self.fields = change(self.fields)
        self._field_lines = change(self._field_lines)

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives, undecoded; nothing for a bodiless response.

        :raises UpstreamCut: it is incomplete, or upstream was silent for too long.
        """
        if self.is_bodiless:
            return
        try:
            yield from self._response.iter_content(BLOCK_SIZE)
        except (requests.RequestException, HTTPError, OSError) as exc:
            raise UpstreamCut("Upstream's response is incomplete.", detail=_reason(exc)) from exc

    def detach(self) -> RawResponse | None:
        """Return the raw response for an event loop, in place of :meth:`pieces`; ``None`` if that is impossible.

        The caller closes it and must not use this object any more.
        """
        return None if self.is_bodiless or not self._raw.detach() else self._raw

    def handshake_response(self) -> HandshakeResponse:
        """Return this response as the response to an opening handshake."""
        return HandshakeResponse(self.status, self.reason, self._field_lines)

    def take_error_code(self) -> str | None:
        """Return the code of the error that this response is, and close it. Its body may be read for some seconds."""
        try:
            return code_in_fields(self._field_lines) or error_code(parse_json(self._start_of_body()))
        finally:
            self.close()

    def peek_error(self) -> object:
        """Return the JSON document in the body of an error, which remains to be relayed; ``None`` if it has none.

        It may be waited for some seconds.
        """
        if self.is_bodiless:
            return None
        try:
            body = self._raw.peek(_ERROR_BODY_BYTES, _ERROR_BODY_SECONDS)
            decoder = decoder_for(value_of(self._field_lines, "content-encoding") or "")
            return parse_json(body if decoder is None else b"".join(decoder.decode(body)))
        except DecodingError:
            return None

    def peek_stream(self, seconds: float, is_enough: Callable[[bytes], bool]) -> bytes:
        """Return the beginning of an event stream, which remains to be relayed, as far as it arrives in time.

        :param is_enough: returns whether no more has to arrive, given what has.
        :return: nothing if the response is no stream, or an encoded one.
        """
        media_type = value_of(self._field_lines, "content-type") or ""
        if self.status != requests.codes.ok or not media_type.lower().startswith("text/event-stream"):
            return b""
        if value_of(self._field_lines, "content-encoding") is not None:
            return b""
        return self._raw.peek(_ERROR_BODY_BYTES, seconds, is_enough)

    def _start_of_body(self) -> bytes:
        """Return the first bytes of the body, decoded, as far as they arrive."""
        if self.is_bodiless:
            return b""
        body, deadline = bytearray(), time.monotonic() + _ERROR_BODY_SECONDS
        try:
            self._raw.socket.settimeout(_ERROR_BODY_SECONDS)
            decoder = decoder_for(value_of(self._field_lines, "content-encoding") or "")
            for piece in self.pieces():
                for decoded in [piece] if decoder is None else decoder.decode(piece):
                    body += decoded
                if len(body) > _ERROR_BODY_BYTES or time.monotonic() > deadline:
                    break
        except (UpstreamCut, DecodingError, OSError):
            pass
        return bytes(body[:_ERROR_BODY_BYTES])

    def close(self) -> None:
        """Release the connection if the body was read to its end; otherwise abort the request at upstream."""
        self._response.close()


class Upstream:
    """Sends requests to OpenAI with the owner's credential.

    :param credentials: provides the credential of each request.
    :param chatgpt_base_url: for a ChatGPT credential; replaces ``/v1`` of the client's target.
    :param api_base_url: for an API key; ``/v1`` is appended to it.
    :param overrides: the configuration's ``headers``.
    :param tls: verifies upstream.
    :param proxy_url: the proxy to use; ``None`` connects directly.
    """

    def __init__(
        self,
        credentials: CredentialSource,
        *,
        chatgpt_base_url: str,
        api_base_url: str,
        overrides: Mapping[str, Sequence[str]],
        tls: ssl.SSLContext,
        proxy_url: str | None,
        silence_timeout_seconds: float = SILENCE_TIMEOUT_SECONDS,
        handshake_timeout_seconds: float = HANDSHAKE_TIMEOUT_SECONDS,
    ) -> None:
        self._credentials = credentials
        self._origins = {
            Mode.CHATGPT: Origin.parse(chatgpt_base_url),
            Mode.API_KEY: Origin.parse(api_base_url),
        }
        self._overrides = overrides
        self._adapter = UpstreamAdapter(tls, proxy_url=proxy_url)
        self._timeout = (CONNECT_TIMEOUT_SECONDS, silence_timeout_seconds)
        self._handshake_timeout = (CONNECT_TIMEOUT_SECONDS, handshake_timeout_seconds)

    def open(self, request: ClientRequest, credential: Credential | None = None) -> UpstreamResponse:
        """Send a request and return its response as soon as the head has arrived.

        A 401 is about the owner's credential or the request, never about the client's token. If the credential is to
        blame, the request is retried once with a replacement, if there is one. That has the same mode: the request was
        allowed for this mode only.

        :param credential: the current one if omitted.
        :raises CredentialError: there is no credential, or upstream accepts none that we have.
        :raises RequestUnauthorized: upstream refuses this request with 401, and the credential is not to blame.
        :raises UpstreamError: there was no valid response.
        """
        credential = credential or self._credentials.current()
        response = self._send(request, credential)
        if response.status != requests.codes.unauthorized:
            return response
        replacement = self._credentials.replacement(credential, response.take_error_code())
        if replacement.mode is not credential.mode:
            raise CredentialUnavailable(
                "The service has just been signed in differently. Try again.", retry_after_seconds=1
            )
        response = self._send(request, replacement)
        if response.status != requests.codes.unauthorized:
            return response
        raise request_unauthorized(response.take_error_code(), is_replaced=True)

    def close(self) -> None:
        """Close all idle connections."""
        self._adapter.close()

    def _send(self, request: ClientRequest, credential: Credential) -> UpstreamResponse:
        try:
            return self._send_once(request, credential)
        except requests.RequestException as exc:
            if not _is_caused_by(exc, StaleConnection):
                raise _translated(exc) from exc
        _log.debug("A pooled connection was stale; sending the request over a new one")
        try:
            return self._send_once(request, credential)
        except requests.RequestException as exc:
            raise _translated(exc) from exc

    def _send_once(self, request: ClientRequest, credential: Credential) -> UpstreamResponse:
        origin = self._origins[credential.mode]
        base_path = origin.base_path if credential.mode is Mode.CHATGPT else f"{origin.base_path}/v1"
        fields = self._fields(request, origin, credential)
        head = RequestHead(request.target.below(base_path), fields, request.exchange)
        body = None if request.body is None else request.body.rewound()
        prepared = upstream_request(request.method, origin, head, body)
        timeout = self._handshake_timeout if request.is_upgrade else self._timeout
        with WaitsForUpstream():
            response = self._adapter.send(prepared, stream=True, timeout=timeout)
        return UpstreamResponse(response, request)

    def _fields(self, request: ClientRequest, origin: Origin, credential: Credential) -> Fields:
        account = _account_fields(credential)
        if request.is_upgrade:
            return upgrade_request_fields(
                request.fields, host=origin.authority, account=account, overrides=self._overrides
            )
        return upstream_request_fields(
            request.fields,
            host=origin.authority,
            account=account,
            content_length=None if request.body is None else request.body.length,
            overrides=self._overrides,
        )


def _account_fields(credential: Credential) -> Fields:
    fields = [("authorization", f"Bearer {credential.access_token}")]
    if credential.account_id:
        fields.append(("chatgpt-account-id", credential.account_id))
    if credential.is_fedramp:
        fields.append(("x-openai-fedramp", "true"))
    return fields


def _translated(exc: requests.RequestException) -> UpstreamError:
    """Return our error for an exception of requests. The client gets a fixed message, the log gets the reason."""
    reason = _reason(exc)
    if _is_caused_by(exc, Aborted):
        return UpstreamUnreachable("The client disconnected before upstream responded.", detail=reason)
    if isinstance(exc, requests.ReadTimeout):
        return UpstreamTimeout("OpenAI accepted the request and did not respond in time.", detail=reason)
    if isinstance(exc, requests.exceptions.ProxyError):
        return UpstreamUnreachable("OpenAI cannot be reached: the configured proxy refused or failed.", detail=reason)
    if isinstance(exc, requests.exceptions.SSLError):
        return UpstreamUnreachable("OpenAI cannot be reached: TLS failed.", detail=reason)
    if isinstance(exc, requests.ConnectionError):
        return UpstreamUnreachable("OpenAI cannot be reached.", detail=reason)
    return UpstreamError("OpenAI's response could not be parsed.", detail=reason)


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _is_caused_by(exc: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in _causes(exc))


def _reason(exc: BaseException) -> str:
    """Return the root cause of an exception; the exceptions above it repeat the URL, which is private to the client."""
    *_, root = _causes(exc)
    return f"{type(exc).__name__} from {type(root).__name__}: {root}"
