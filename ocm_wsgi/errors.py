"""Every failure this package raises, and what a client, an operator or a command line is told of it.

The tree, split by what the one who meets it can do::

    OcmError
    ├── ConfigurationError          the start stops; the owner mends the configuration
    ├── BadRequest                  400  the client must send something else
    │   ├── UnsafeTarget
    │   ├── BodyTooLarge
    │   ├── BodyTruncated
    │   ├── EndpointUnavailable
    │   ├── ModelNotAllowed
    │   └── UserRejected
    ├── AuthenticationFailed        401  the client must present a bearer token of ours
    ├── AdminOnly                   403
    ├── NotFound                    404
    ├── SignInThrottled             429  too many sign-ins to the dashboard have failed
    ├── TooManyConcurrent           429  the user has as many turns under way as they may
    ├── UsageLimitReached           429  a limit of the user, or the owner's reserve
    ├── UpgradeUnavailable          426  WebSocket is not to be had here; use HTTP
    ├── CredentialError             about the owner's own credential
    │   ├── CredentialRejected      400  only the owner can mend it; retrying cannot
    │   └── CredentialUnavailable   503  missing or failing for now
    ├── LoginFailed                 a sign-in or sign-out of the owner did not come about
    ├── StateError                  503  our own database cannot be used for now
    │   └── StateTooNew             a newer release made it; the owner installs that, or uses another
    └── UpstreamError               502  OpenAI's side
        ├── UpstreamUnreachable
        ├── UpstreamTimeout         504
        └── UpstreamCut             a response that ended before its end

A status is chosen for what the Codex client does with it: what retrying cannot cure is 400, whose text it shows
at once and does not retry. Messages are fixed sentences for the client: no token, no path, no upstream text. What
the operator needs beyond that goes into ``detail``, which is logged and never sent.

Imports nothing of this package: every module may use it.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType


class OcmError(Exception):
    """The root of all failures of this package.

    :param message: one sentence for whoever made the request; safe to send.
    :param detail: more for the log, or ``None``; never sent to a client. Must hold no secret.
    :param retry_after_seconds: sent as ``Retry-After`` when not ``None``; a whole number, at least 1.
    :ivar members: sent beside ``type``, ``code`` and ``message`` in the ``error`` object.
    :ivar response_fields: sent as further response fields.
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


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong in the configuration.

    :ivar where: JSON path (``$.users[0].token``) or the name of an environment variable.
    :ivar found: what stands there, as the reader would recognise it; never a secret.
    :ivar expected: what would be right.
    :ivar nearest: the known key that was probably meant, or ``None``.
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


class BadRequest(OcmError):
    """The request cannot be served as it is, and repeating it will not help."""

    status = 400
    error_type = "invalid_request_error"


class UnsafeTarget(BadRequest):
    """The request target could leave the API's base path."""

    code = "invalid_target"


class BodyTooLarge(BadRequest):
    """The body exceeds ``max_body_bytes``. 400 and not 413: Codex would retry a 413 five times."""

    code = "body_too_large"


class BodyTruncated(BadRequest):
    """The client stopped before the end of the body it had announced."""

    code = "body_truncated"


class EndpointUnavailable(BadRequest):
    """The endpoint does not exist for the kind of credential that the owner has."""

    code = "endpoint_unavailable"


class ModelNotAllowed(BadRequest):
    """The user may not use this model. 400, because Codex shows its text at once and does not retry it."""

    code = "model_not_allowed"


class UserRejected(BadRequest):
    """A user cannot be made or changed like this: the message says why."""

    code = "invalid_user"


class AuthenticationFailed(OcmError):
    """No bearer token, a malformed one, or one that no user has. The response carries a challenge."""

    status = 401
    error_type = "authentication_error"
    code = "invalid_bearer_token"


class AdminOnly(OcmError):
    """The user is known and may not have this."""

    status = 403
    error_type = "permission_error"
    code = "admin_only"


class NotFound(OcmError):
    """Nothing is served at this path."""

    status = 404
    error_type = "invalid_request_error"
    code = "not_found"


class SignInThrottled(OcmError):
    """Too many sign-ins to the dashboard have failed, from this address or in all."""

    status = 429
    error_type = "rate_limit_exceeded"
    code = "sign_in_throttled"


class TooManyConcurrent(OcmError):
    """The user has as many turns under way as they may. With ``Retry-After``, which Codex waits for, five times."""

    status = 429
    error_type = "rate_limit_exceeded"
    code = "too_many_concurrent"


class UsageLimitReached(OcmError):
    """A limit of the user is reached, or the part of the subscription that is left is the owner's.

    In the form that Codex takes for final. It makes its own sentence of it: "You've hit your usage limit. <advice>, or
    try again at <resets_at>." Where ``x-codex-promo-message`` does not get through it says, for this plan type, "To get
    more access now, send a request to your admin or try again at <resets_at>."

    :param advice: what to do about it, without a full stop.
    :param resets_at: Unix seconds when it may be tried again.
    :param resets_in_seconds: the same from now on, at least 0.

    Source: openai/codex, ``codex-rs/protocol/src/error.rs``.
    """

    status = 429
    error_type = "usage_limit_reached"
    code = "usage_limit_reached"

    def __init__(self, message: str, *, advice: str, resets_at: int, resets_in_seconds: int) -> None:
        super().__init__(message)
        self.members = {"plan_type": "business", "resets_at": resets_at, "resets_in_seconds": resets_in_seconds}
        # The second is what the openai library asks before it tries again.
        self.response_fields = {"x-codex-promo-message": advice, "x-should-retry": "false"}


class UpgradeUnavailable(OcmError):
    """A WebSocket was asked for where none can be had. Codex falls back to HTTP at once on 426."""

    status = 426
    error_type = "invalid_request_error"
    code = "websocket_unavailable"


class CredentialError(OcmError):
    """The owner's credential cannot be used."""


class CredentialRejected(CredentialError):
    """Only the owner can mend the credential: signed out, of a kind we cannot use, or refused for good.

    400, because Codex shows its text at once and does not retry it.
    """

    status = 400
    error_type = "invalid_request_error"
    code = "credential_rejected"


class CredentialUnavailable(CredentialError):
    """The credential is missing, unreadable or could not be refreshed, for now. It may be mended at any moment."""

    status = 503
    error_type = "api_error"
    code = "credential_unavailable"


class LoginFailed(OcmError):
    """The owner's sign-in did not come about; ``auth.json`` is as it was. For the command line only.

    :param code: what went wrong, for programs.
    """

    def __init__(self, message: str, *, code: str, detail: str | None = None) -> None:
        super().__init__(message, detail=detail)
        self.code = code


class StateError(OcmError):
    """The state database is locked, full, damaged or gone. A turn that is under way goes on all the same."""

    status = 503
    code = "state_unavailable"


class StateTooNew(StateError):
    """The schema is of a newer release: writing to it could harm what that release keeps there."""


class UpstreamError(OcmError):
    """OpenAI's side failed before a response could be relayed."""

    status = 502
    error_type = "api_error"
    code = "upstream_error"


class UpstreamUnreachable(UpstreamError):
    """No connection to upstream, or it broke before the response began."""

    code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """Upstream accepted the request and stayed silent for too long."""

    status = 504
    code = "upstream_timeout"


class UpstreamCut(UpstreamError, ConnectionResetError):
    """Upstream's response ended before its end, after the status had been sent to the client.

    Also a ``ConnectionResetError``: a WSGI server then drops the client's connection without the closing chunk,
    so the client can see that the response is not whole, and does not log a traceback for it.
    """

    code = "upstream_cut"

    def __init__(self, message: str, *, detail: str | None = None) -> None:
        UpstreamError.__init__(self, message, detail=detail)
        self.errno = errno.ECONNRESET
