"""The owner's credential, reduced to what requests need."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Mode(Enum):
    """The supported kinds of credential; the values are those of ``auth_mode``."""

    CHATGPT = "chatgpt"
    API_KEY = "apikey"


@dataclass(frozen=True)
class Credential:
    """Authenticates requests to upstream as the owner. ``repr`` shows neither the token nor the account.

    :ivar access_token: the bearer token for upstream: an OAuth access token, or the API key.
    :ivar account_id: the ChatGPT account or workspace; ``None`` when unknown, and with an API key.
    :ivar is_fedramp: whether the account belongs to a FedRAMP workspace.
    :ivar plan_type: ``plus``, ``pro``, ``team`` and the like; ``None`` when unknown, and with an API key.
    :ivar expires_at: ``exp`` of the access token in Unix seconds; ``None`` if it has no valid one.
    :ivar issued_at: ``iat`` of the access token, likewise.
    :ivar last_refresh: when the tokens were obtained, in Unix seconds; ``None`` with an API key.
    """

    mode: Mode
    access_token: str = field(repr=False)
    account_id: str | None = field(default=None, repr=False)
    is_fedramp: bool = False
    plan_type: str | None = None
    expires_at: float | None = None
    issued_at: float | None = None
    last_refresh: float | None = None

    @property
    def effective_expiry(self) -> float | None:
        """When the access token expires by our clock: never before it has lasted for its full lifetime.

        If our clock is far ahead, each new token would otherwise be expired on arrival and be refreshed immediately.
        """
        if self.expires_at is None or self.issued_at is None or self.last_refresh is None:
            return self.expires_at
        return max(self.expires_at, self.last_refresh + self.expires_at - self.issued_at)
