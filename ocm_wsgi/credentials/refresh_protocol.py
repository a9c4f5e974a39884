"""What a worker asks of the process that renews a credential, and what that answers. JSON both ways, over pipes.

The job may hold a proxy's password, so it goes through standard input and never onto a command line. Neither holds a
token: the process reads those from the file.
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
    """How the token endpoint is reached.

    :ivar auth_base_url: the issuer's base URL.
    :ivar proxy_url: ``http://``, ``socks5://`` or ``socks5h://``, with its password; ``None`` connects directly.
    :ivar trust: the configuration's ``certificate``, as JSON would have it; ``None`` trusts certifi's roots.
    :ivar token_url: the whole URL of the token endpoint, over everything else.
    :ivar client_id: the OAuth client of tokens that do not say theirs.
    """

    auth_base_url: str = ISSUER
    proxy_url: str | None = field(default=None, repr=False)
    trust: Mapping[str, Any] | None = None
    token_url: str | None = None
    client_id: str | None = None

    def endpoint(self, provenance: Provenance) -> TokenEndpoint:
        """Return where tokens of this provenance are renewed.

        :raises CredentialRejected: they would travel in clear text.
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
        """How long a worker waits for the process that does it all."""
        return 2 * self.lock_seconds + self.exchange_seconds + self.adoption_seconds


@dataclass(frozen=True)
class RefreshJob:
    """One renewal.

    :ivar fingerprint: of the document that the worker has; if the file's is another one, nothing is presented.
    """

    credential_path: Path
    state_path: Path
    fingerprint: str
    reason: RefreshReason
    settings: RefreshSettings
    timeouts: Timeouts


class Result(Enum):
    """How a renewal ended."""

    REFRESHED = "refreshed"
    CHANGED = "changed"
    """The file holds something else than the worker knew. Nothing was presented, or its result not needed."""
    REFUSED = "refused"
    FAILED = "failed"


class Problem(Enum):
    """Why a renewal failed for now."""

    ENDPOINT = "endpoint"
    UNWRITABLE = "unwritable"
    NO_SPACE = "no_space"
    BUSY = "busy"
    FILE = "file"
    PROCESS = "process"


@dataclass(frozen=True)
class RefreshOutcome:
    """What came of a renewal. Holds no secret.

    :ivar problem: why it failed; ``None`` otherwise.
    :ivar detail: for the log; with ``REFUSED``, the issuer's error code.
    :ivar fingerprint: of the document with the new tokens, when there are any.
    """

    result: Result
    problem: Problem | None = None
    detail: str = ""
    fingerprint: str | None = None

    @classmethod
    def failed(cls, problem: Problem, detail: str) -> RefreshOutcome:
        """Return the outcome of a failure that may pass."""
        return cls(Result.FAILED, problem, detail)


JOB = TypeAdapter(RefreshJob)
OUTCOME = TypeAdapter(RefreshOutcome)
