"""Every error this package raises, with what clients, operators and the command line get to see of it.

The tree, grouped by what can be done about the error::

    OcmError
    ├── ConfigurationError          startup fails; the owner must fix the configuration
    ├── InternalError               500  a bug in this service
    ├── BadRequest                  400  the client must change the request
    │   ├── UnsafeTarget
    │   ├── BodyTooLarge
    │   ├── BodyTruncated
    │   ├── EndpointUnavailable
    │   ├── ModelNotAllowed
    │   ├── ReferenceNotFound       the body refers to an object that is not the user's
    │   │   └── PreviousResponseNotFound
    │   ├── BodyUnreadable
    │   ├── ListRefused
    │   ├── MessageRejected
    │   ├── LimitUnmeasurable
    │   ├── RequestUnauthorized     upstream's 401 that is not the fault of the owner's credential
    │   └── UserRejected
    ├── AuthenticationFailed        401  the client must send a valid bearer token
    ├── AdminOnly                   403
    ├── NotFound                    404
    │   └── ObjectNotFound              also for an object that is not the user's
    ├── MethodNotSupported          405
    ├── SignInThrottled             429  too many failed sign-ins to the dashboard
    ├── TooManyConcurrent           429  the user has too many concurrent turns
    ├── UsageLimitReached           429  a limit of the user, or the owner's reserve
    ├── UpgradeUnavailable          426  WebSocket is unavailable here; use HTTP
    ├── CredentialError             the owner's credential
    │   ├── CredentialRejected      400  only the owner can fix it; retrying does not help
    │   └── CredentialUnavailable   503  missing or temporarily unusable
    ├── LoginFailed                 a sign-in or sign-out of the owner failed
    ├── StateError                  503  the state database is temporarily unusable
    │   └── StateTooNew             a newer release created it; install that release, or use another database
    └── UpstreamError               502  OpenAI's side failed
        ├── UpstreamUnreachable
        ├── UpstreamTimeout         504
        └── UpstreamCut             a response that broke off

Each status is chosen for its effect on the Codex client: an error that a retry cannot fix is 400, whose text Codex
shows immediately without retrying. Messages are fixed sentences for the client, without tokens, paths or upstream text.
Further information for the operator goes into ``detail``, which is logged and never sent.

Imports nothing from this package, so that every module can import it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


class OcmError(Exception):
    """Base class of all errors in this package.

    :param message: one sentence for the client; safe to send.
    :param detail: further information for the log, or ``None``; never sent to a client. Must not contain a secret.
    :param retry_after_seconds: sent as ``Retry-After`` unless ``None``; at least 1.
    :ivar members: sent beside ``type``, ``code`` and ``message`` in the ``error`` object.
    :ivar response_fields: sent as additional response fields.
    """

    status = 500
    error_type = "api_error"
    code: str | None = None
    exit_code = 1
    members: Mapping[str, object] = MappingProxyType({})
    response_fields: Mapping[str, str] = MappingProxyType({})

    def __init__(self, message: str, *, detail: str | None = None, retry_after_seconds: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds

    def as_json(self) -> dict[str, object]:
        """Return the ``error`` object that clients receive, in OpenAI's shape."""
        return {"type": self.error_type, "code": self.code, "message": self.message, **self.members}


@dataclass(frozen=True)
class ConfigProblem:
    """One problem in the configuration.

    :ivar where: JSON path (``$.users[0].token``) or the name of an environment variable.
    :ivar found: the invalid value, as the reader would recognise it; never a secret.
    :ivar expected: what would be valid.
    :ivar nearest: the known key that was probably intended, or ``None``.
    """

    where: str
    found: str
    expected: str
    nearest: str | None = None

    def __str__(self) -> str:
        hint = f" (did you mean {self.nearest}?)" if self.nearest else ""
        return f"{self.where}: found {self.found}; expected {self.expected}{hint}"


class ConfigurationError(OcmError):
    """The configuration cannot be used. Lists every problem, so that one round of fixes is enough."""

    code = "configuration_error"

    def __init__(self, source: str, problems: Sequence[ConfigProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        count = f"{len(self.problems)} problem" + ("" if len(self.problems) == 1 else "s")
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"{count} in the configuration ({source}):{lines}")


class InternalError(OcmError):
    """A bug in this service. Its log has the traceback, and the client gets no detail."""

    def __init__(self) -> None:
        super().__init__("This service failed. Its log says why.")


class BadRequest(OcmError):
    """The request cannot be served as it is; retrying will not help."""

    status = 400
    error_type = "invalid_request_error"


class UnsafeTarget(BadRequest):
    """The request target could leave the API's base path."""

    code = "invalid_target"


class BodyTooLarge(BadRequest):
    """The body exceeds ``max_body_bytes``. 400 rather than 413, which Codex would retry five times."""

    code = "body_too_large"


class BodyTruncated(BadRequest):
    """The client disconnected before it had sent the whole body."""

    code = "body_truncated"


class NoRoomForBody(OcmError):
    """The temporary files' disk is too full for a large request body."""

    status = 507
    code = "insufficient_storage"


class EndpointUnavailable(BadRequest):
    """The endpoint does not exist for the owner's kind of credential."""

    code = "endpoint_unavailable"


class ModelNotAllowed(BadRequest):
    """The user may not use this model. 400, because Codex shows its text immediately and does not retry."""

    code = "model_not_allowed"


class ReferenceNotFound(BadRequest):
    """The body refers to an object that upstream does not store, or not for this user.

    :param param: the member of the body that refers to it, or ``None`` if it is inside another one.
    """

    code = "not_found"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.members = {"param": param}


class PreviousResponseNotFound(ReferenceNotFound):
    """The response that the body continues is not stored, or not for this user. Codex then sends everything again."""

    code = "previous_response_not_found"


class BodyUnreadable(BadRequest):
    """The body cannot be read, so that what it refers to is unknown."""

    code = "body_unreadable"


class ListRefused(BadRequest):
    """The list would contain the objects of all users."""

    code = "list_unavailable"


class MessageRejected(BadRequest):
    """A WebSocket message is not relayed, because it cannot be read, or what it asks for is not known."""

    code = "invalid_message"


class LimitUnmeasurable(BadRequest):
    """The user's limit would not count this: its use or price is not known, or there is no subscription to share."""

    code = "limit_unmeasurable"


class RequestUnauthorized(BadRequest):
    """Upstream answers this request with 401, whatever the credential: its endpoint, or something that it asks for.

    400, because Codex would sign in again after a 401, and repeat a 403.
    """

    code = "upstream_unauthorized"


class UserRejected(BadRequest):
    """A user cannot be created or changed as requested; the message says why."""

    code = "invalid_user"


class UntrustedHost(BadRequest):
    """A service without users was addressed by a name that may belong to a web page (DNS rebinding)."""

    code = "untrusted_host"


class AuthenticationFailed(OcmError):
    """The bearer token is missing, malformed or unknown. The response has a challenge."""

    status = 401
    error_type = "authentication_error"
    code = "invalid_bearer_token"


class AdminOnly(OcmError):
    """The user is authenticated but not authorized."""

    status = 403
    error_type = "permission_error"
    code = "admin_only"


class ForeignOrigin(OcmError):
    """A web page of an origin that is not allowed has made a browser ask, or send to a service without users."""

    status = 403
    error_type = "permission_error"
    code = "foreign_origin"


class NotFound(OcmError):
    """There is nothing at this path."""

    status = 404
    error_type = "invalid_request_error"
    code: str | None = "not_found"


class ObjectNotFound(NotFound):
    """Upstream stores no object of this ID, or not for this user. As from upstream, nothing tells the two apart."""

    code = None
    members: Mapping[str, object] = MappingProxyType({"param": None})


class MethodNotSupported(OcmError):
    """The path exists, but not for this method.

    :param allowed: the methods that it has, sent as ``Allow`` (RFC 9110 section 15.5.6).
    """

    status = 405
    error_type = "invalid_request_error"
    code = "method_not_supported"

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.response_fields = {"Allow": ", ".join(allowed)}


class SignInThrottled(OcmError):
    """Too many sign-ins to the dashboard have failed, from this address or in total."""

    status = 429
    error_type = "rate_limit_exceeded"
    code = "sign_in_throttled"


class TooManyConcurrent(OcmError):
    """The user has too many concurrent turns. Has ``Retry-After``, which Codex obeys, up to five times."""

    status = 429
    error_type = "rate_limit_exceeded"
    code = "too_many_concurrent"


class UsageLimitReached(OcmError):
    """A limit of the user is reached, or the rest of the subscription is reserved for the owner.

    Sent in the form that Codex treats as final. Codex shows a sentence of its own: "You've hit your usage limit.
    <advice>, or try again at <resets_at>." If ``x-codex-promo-message`` does not arrive, it shows, for this plan type,
    "To get more access now, send a request to your admin or try again at <resets_at>."

    :param advice: what the user can do, without a full stop.
    :param resets_at: Unix seconds of the reset.
    :param resets_in_seconds: seconds until the reset, at least 0.

    Source: openai/codex, ``codex-rs/protocol/src/error.rs``.
    """

    status = 429
    error_type = "usage_limit_reached"
    code = "usage_limit_reached"

    def __init__(self, message: str, *, advice: str, resets_at: int, resets_in_seconds: int) -> None:
        super().__init__(message)
        self.members = {"plan_type": "business", "resets_at": resets_at, "resets_in_seconds": resets_in_seconds}
        # The openai library checks x-should-retry before it retries.
        self.response_fields = {"x-codex-promo-message": advice, "x-should-retry": "false"}


class UpgradeUnavailable(OcmError):
    """A WebSocket was requested but is unavailable here. On 426 Codex immediately falls back to HTTP."""

    status = 426
    error_type = "invalid_request_error"
    code = "websocket_unavailable"


class CredentialError(OcmError):
    """The owner's credential cannot be used."""


class CredentialRejected(CredentialError):
    """Only the owner can fix the credential: it is signed out, unsupported, or permanently refused.

    400, because Codex shows its text immediately and does not retry.
    """

    status = 400
    error_type = "invalid_request_error"
    code = "credential_rejected"


class CredentialUnavailable(CredentialError):
    """The credential is missing or unreadable, or could not be refreshed. This may be temporary."""

    status = 503
    error_type = "api_error"
    code = "credential_unavailable"


class LoginFailed(OcmError):
    """The owner's sign-in failed; ``auth.json`` is unchanged. For the command line only.

    :param code: the reason, for programs.
    """

    def __init__(self, message: str, *, code: str, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.code = code


class StateError(OcmError):
    """The state database is locked, full, damaged or missing. Turns in progress continue."""

    status = 503
    code = "state_unavailable"


class StateTooNew(StateError):
    """The schema is from a newer release: writing to it could corrupt that release's data."""


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
