"""Every error this package raises, with what clients, operators and the command line get to see of it.

The tree, grouped by what can be done about the error::

    OcmError
    ├── ConfigurationError          startup fails; the owner must fix the configuration
    ├── StateUnusable               startup fails; another user, a full disk, or another instance
    ├── ServerNotStarted            startup fails; the address is taken, or an option is invalid
    ├── InternalError               500  a bug in this service
    ├── NoRoomForBody               507  the disk is too full for the body of a request
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
    │   ├── ReconnectNeeded         a WebSocket must be opened again, with a replaced credential
    │   ├── RequestUnauthorized     upstream's 401 that is not the fault of the owner's credential
    │   ├── UntrustedHost
    │   └── UserRejected
    ├── AuthenticationFailed        401  the client must send a valid bearer token
    ├── AdminOnly                   403
    ├── ForeignOrigin               403  a web page of another origin, on a service without users
    ├── NotFound                    404
    │   └── ObjectNotFound              also for an object that is not the user's
    ├── MethodNotSupported          405
    ├── SignInThrottled             429  too many failed sign-ins to the dashboard
    ├── TooManyConcurrent           429  the user has too many concurrent turns
    ├── UsageLimitReached           429  a limit of the user, or the owner's reserve
    │   └── PoolUsedUp              429  all accounts that may serve the user are used up
    ├── UpgradeUnavailable          426  WebSocket is unavailable here; use HTTP
    ├── CredentialError             the owner's credential
    │   ├── CredentialRejected      400  only the owner can fix it; retrying does not help
    │   └── CredentialUnavailable   503  missing or temporarily unusable
    ├── LoginFailed                 a sign-in or sign-out of the owner failed
    ├── StateError                  503  the state database is temporarily unusable
    │   └── StateTooNew             a newer release created it; install that release, or use another database
    ├── TransferFailed              a backup, a restoration, an export or an import failed
    └── UpstreamError               502  OpenAI's side failed
        ├── UpstreamUnreachable
        ├── UpstreamTimeout         504
        └── UpstreamCut             a response that broke off

Each status is chosen for its effect on the Codex client: an error that a retry cannot fix is 400, whose text Codex
shows immediately without retrying. Messages are fixed sentences for the client, without tokens, paths or upstream text.
Further information for the operator goes into ``detail``, which is logged and never sent.

Imports nothing from other packages, so that every module can import it.
"""

from __future__ import annotations

from ocm_wsgi.errors.base import OcmError
from ocm_wsgi.errors.owner import (
    ConfigProblem,
    ConfigurationError,
    CredentialError,
    CredentialRejected,
    CredentialUnavailable,
    InternalError,
    LoginFailed,
    NoRoomForBody,
    ServerNotStarted,
    StateError,
    StateTooNew,
    StateUnusable,
    TransferFailed,
)
from ocm_wsgi.errors.refusals import (
    AdminOnly,
    AuthenticationFailed,
    BadRequest,
    BodyTooLarge,
    BodyTruncated,
    BodyUnreadable,
    EndpointUnavailable,
    ForeignOrigin,
    LimitUnmeasurable,
    ListRefused,
    MessageRejected,
    MethodNotSupported,
    ModelNotAllowed,
    NotFound,
    ObjectNotFound,
    PoolUsedUp,
    PreviousResponseNotFound,
    ReconnectNeeded,
    ReferenceNotFound,
    RequestUnauthorized,
    SignInThrottled,
    TooManyConcurrent,
    UnsafeTarget,
    UntrustedHost,
    UpgradeUnavailable,
    UsageLimitReached,
    UserRejected,
)
from ocm_wsgi.errors.upstream import UpstreamCut, UpstreamError, UpstreamTimeout, UpstreamUnreachable

__all__ = [
    "AdminOnly",
    "AuthenticationFailed",
    "BadRequest",
    "BodyTooLarge",
    "BodyTruncated",
    "BodyUnreadable",
    "ConfigProblem",
    "ConfigurationError",
    "CredentialError",
    "CredentialRejected",
    "CredentialUnavailable",
    "EndpointUnavailable",
    "ForeignOrigin",
    "InternalError",
    "LimitUnmeasurable",
    "ListRefused",
    "LoginFailed",
    "MessageRejected",
    "MethodNotSupported",
    "ModelNotAllowed",
    "NoRoomForBody",
    "NotFound",
    "ObjectNotFound",
    "OcmError",
    "PoolUsedUp",
    "PreviousResponseNotFound",
    "ReconnectNeeded",
    "ReferenceNotFound",
    "RequestUnauthorized",
    "ServerNotStarted",
    "SignInThrottled",
    "StateError",
    "StateTooNew",
    "StateUnusable",
    "TooManyConcurrent",
    "TransferFailed",
    "UnsafeTarget",
    "UntrustedHost",
    "UpgradeUnavailable",
    "UpstreamCut",
    "UpstreamError",
    "UpstreamTimeout",
    "UpstreamUnreachable",
    "UsageLimitReached",
    "UserRejected",
]
