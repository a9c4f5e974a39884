"""The messages between a worker and the process that refreshes a credential: JSON over pipes.

A job may contain a proxy's password, so it is sent through standard input and never on a command line. Neither message
contains a token: the process reads those from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ocm_wsgi.oauth.refresh import ISSUER, Provenance, RefreshReason, TokenEndpoint, token_endpoint


@dataclass(frozen=True)
class RefreshSettings:
    """How to reach the token endpoint.

    :ivar auth_base_url: the issuer's base URL.
    :ivar proxy_url: ``http://``, ``socks5://`` or ``socks5h://``, with its password; ``None`` connects directly.
    :ivar trust: the configuration's ``certificate`` as JSON; ``None`` trusts certifi's roots.
    :ivar token_url: the whole URL of the token endpoint, which overrides everything else.
    :ivar client_id: the OAuth client of tokens that do not name theirs.
    """

    auth_base_url: str = ISSUER
    proxy_url: str | None = field(default=None, repr=False)
    trust: Mapping[str, Any] | None = None
    token_url: str | None = None
    client_id: str | None = None

    def endpoint(self, provenance: Provenance) -> TokenEndpoint:
        """Return the endpoint that refreshes tokens of this provenance.

        :raises CredentialRejected: they would be sent in clear text.
        """
        return token_endpoint(
            provenance, auth_base_url=self.auth_base_url, token_url=self.token_url, client_id=self.client_id
        )


@dataclass(frozen=True)
class Timeouts:
    """How long the steps of a refresh may take.

    :ivar lock_seconds: to wait for each of the two locks.
    :ivar exchange_seconds: the expected maximum for the exchange; it only bounds how long the worker waits.
    :ivar adoption_seconds: after a refusal, within which another program may still write the tokens it got first.
    """

    lock_seconds: float = 60.0
    exchange_seconds: float = 40.0
    adoption_seconds: float = 3.0

    @property
    def total_seconds(self) -> float:
        """How long a worker waits for the process."""
        return 2 * self.lock_seconds + self.exchange_seconds + self.adoption_seconds


@dataclass(frozen=True)
class RefreshJob:
    """One refresh.

    :ivar fingerprint: of the document that the worker has; if the file's differs, no token is presented.
    """

    credential_path: Path
    state_path: Path
    fingerprint: str
    reason: RefreshReason
    settings: RefreshSettings
    timeouts: Timeouts


class Result(Enum):
    """The result of a refresh."""

    REFRESHED = "refreshed"
    CHANGED = "changed"
    """The file differs from what the worker has. No token was presented, or the result was not needed."""
    REFUSED = "refused"
    FAILED = "failed"


class Problem(Enum):
    """The cause of a temporary failure."""

    ENDPOINT = "endpoint"
    UNWRITABLE = "unwritable"
    NO_SPACE = "no_space"
    BUSY = "busy"
    FILE = "file"
    PROCESS = "process"


@dataclass(frozen=True)
class RefreshOutcome:
    """The outcome of a refresh. Contains no secret.

    :ivar problem: the cause of a failure; ``None`` otherwise.
    :ivar detail: for the log; with ``REFUSED``, the issuer's error code.
    :ivar fingerprint: of the document with the new tokens, if there are any.
    """

    result: Result
    problem: Problem | None = None
    detail: str = ""
    fingerprint: str | None = None

    @classmethod
    def failed(cls, problem: Problem, detail: str) -> RefreshOutcome:
        """Return the outcome of a temporary failure."""
        return cls(Result.FAILED, problem, detail)


JOB = TypeAdapter(RefreshJob)
OUTCOME = TypeAdapter(RefreshOutcome)
