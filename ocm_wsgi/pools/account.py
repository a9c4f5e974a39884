"""The accounts at OpenAI: each with its own credential, connections, windows and usage file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ocm_wsgi.accounting.usages_export import UsagesExport
from ocm_wsgi.credentials import CredentialSource
from ocm_wsgi.errors import CredentialError, CredentialRejected
from ocm_wsgi.upstream.client import Upstream
from ocm_wsgi.users.user import User


@dataclass(frozen=True)
class UpstreamAccount:
    """One account.

    :ivar tag: its name in the configuration, in rows and in labels.
    :ivar upstream: sends requests with its credential, over connections that no other account uses.
    :ivar usages_export: ``None`` if it has no usage file.
    """

    tag: str
    credentials: CredentialSource
    upstream: Upstream
    usages_export: UsagesExport | None


class UpstreamAccounts:
    """All accounts of the service, in the order of the configuration. At least one.

    :ivar first: serves users whom nothing binds to another, and requests where no users exist.
    """

    def __init__(self, accounts: Mapping[str, UpstreamAccount]) -> None:
        self.by_tag = accounts
        self.first = next(iter(accounts.values()))

    def all(self) -> list[UpstreamAccount]:
        """Return all accounts."""
        return list(self.by_tag.values())

    def of(self, user: User) -> UpstreamAccount:
        """Return the account that serves a user.

        :raises CredentialRejected: the user is bound to one that no longer exists.
        """
        if user.credential is None:
            return self.first
        account = self.by_tag.get(user.credential)
        if account is None:
            raise CredentialRejected(
                "The credential that serves you no longer exists. The owner of the service must give you another one.",
                detail=f"{user.name} is bound to the credential {user.credential!r}, which is not configured",
            )
        return account

    def usages_exports(self) -> list[UsagesExport]:
        """Return the exports of the accounts that have a usage file."""
        return [account.usages_export for account in self.by_tag.values() if account.usages_export is not None]

    def plan_of(self, tag: str) -> str | None:
        """Return an account's plan by its credential; ``None`` if that is unknown."""
        try:
            return self.by_tag[tag].credentials.peek().plan_type
        except CredentialError:
            return None

    def is_api_key(self, tag: str) -> bool:
        """Return whether an account's credential is an API key; false if that is unknown."""
        account = self.by_tag.get(tag)
        return account is not None and account.credentials.is_api_key()
