"""Errors that the client of a request, or its user, can do something about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ocm_wsgi.errors.base import OcmError


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
    """A user's own objects cannot be picked out of the list of everyone's."""

    code = "list_unavailable"


class MessageRejected(BadRequest):
    """A WebSocket message is not relayed, because it cannot be read, or what it asks for is not known."""

    code = "invalid_message"


class LimitUnmeasurable(BadRequest):
    """The user's limit would not count this: its use or price is not known, or there is no subscription to share."""

    code = "limit_unmeasurable"


class ReconnectNeeded(BadRequest):
    """Upstream no longer accepts the credential with which a WebSocket was opened.

    With OpenAI's own code for a WebSocket that has become too old, on which Codex opens another one and sends
    everything again.
    """

    code = "websocket_connection_limit_reached"


class RequestUnauthorized(BadRequest):
    """Upstream answers this request with 401, whatever the credential: its endpoint, or something that it asks for.

    400, because Codex would sign in again after a 401, and repeat a 403.

    :param upstream_code: the code of upstream's error; ``None`` if it has none.
    """

    code = "upstream_unauthorized"

    def __init__(self, message: str, *, upstream_code: str | None = None, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.upstream_code = upstream_code


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
    """Upstream stores no object of this ID, or not for this user. As with upstream, the two look the same."""

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


class PoolUsedUp(UsageLimitReached):
    """All accounts that may serve the user are used up. The client does not learn how many there are.

    :param figure_fields: what the response says of their windows.
    """

    def __init__(
        self, message: str, *, resets_at: int, resets_in_seconds: int, figure_fields: Mapping[str, str]
    ) -> None:
        advice = "The subscription behind this service is used up"
        super().__init__(message, advice=advice, resets_at=resets_at, resets_in_seconds=resets_in_seconds)
        self.response_fields = {**self.response_fields, **figure_fields}


class UpgradeUnavailable(OcmError):
    """A WebSocket was requested but is unavailable here. On 426 Codex immediately falls back to HTTP."""

    status = 426
    error_type = "invalid_request_error"
    code = "websocket_unavailable"
