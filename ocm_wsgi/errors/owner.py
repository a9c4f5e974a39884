"""Errors that the owner of the service can do something about: configuration, credential, state, and bugs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ocm_wsgi.errors.base import OcmError


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


class StateUnusable(OcmError):
    """The state folder cannot be used: by this user, on this disk, or beside another instance. Nothing starts."""

    code = "state_unusable"


class ServerNotStarted(OcmError):
    """The server cannot start: its address is taken, or its number of workers is invalid."""

    code = "server_not_started"


class TransferFailed(OcmError):
    """A backup, a restoration, an export or an import failed. For the command line only; it says what was changed."""

    code = "transfer_failed"


class NoRoomForBody(OcmError):
    """The temporary files' disk is too full for a large request body."""

    status = 507
    code = "insufficient_storage"
