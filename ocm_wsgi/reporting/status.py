"""The status of users, of the service and of the subscription, as JSON values. Decides who sees what; no Flask.

A user sees only themselves: never another's name, nor that there is another, nor how full the owner's subscription is.
Admins see everything, and so does everyone if there are no users.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from ocm_wsgi import __version__
from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.admission.admission import Admission, LimitUsage
from ocm_wsgi.credentials import CredentialSource
from ocm_wsgi.errors import CredentialError
from ocm_wsgi.pools.account import UpstreamAccount, UpstreamAccounts
from ocm_wsgi.quota.limits import MEASURES, Cycle, Period
from ocm_wsgi.quota.shares import Shares
from ocm_wsgi.users.accounts import Accounts
from ocm_wsgi.users.user import ANYONE, User

UserState = Literal["active", "disabled", "expired"]


def sees_all(user: User) -> bool:
    """Return whether a user sees all users and the subscription."""
    return user.admin or user is ANYONE


def iso(time: float | None) -> str | None:
    """Return a time in the format of RFC 3339, in UTC and whole seconds."""
    if time is None:
        return None
    return datetime.fromtimestamp(int(time), timezone.utc).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class StatusReport:
    """Reports the status of the service and of each user."""

    accounts: Accounts
    admission: Admission
    upstream_accounts: UpstreamAccounts
    ledger: Ledger
    window_history: WindowHistory

    def for_user(self, user: User) -> dict[str, Any]:
        """Return the status of a user, and for a user who sees everything that of the service.

        :raises StateError: the database cannot be read.
        """
        own = {"user": user_status(user, self.admission.limit_usage(user))}
        return {**own, "service": self.of_service()} if sees_all(user) else own

    def of_service(self) -> dict[str, Any]:
        """Return the status of the service, its users, and its accounts: of the first one, and of each.

        :raises StateError: the database cannot be read.
        """
        users = [account.user for account in self.accounts.all()]
        return {
            "version": __version__,
            "users": [user_status(user, self.admission.limit_usage(user)) for user in users],
            **self._of_account(self.upstream_accounts.first),
            "credentials": [
                {"tag": account.tag, **self._of_account(account)} for account in self.upstream_accounts.all()
            ],
        }

    def _of_account(self, account: UpstreamAccount) -> dict[str, Any]:
        found = [(period, self.window_history.shares(account.tag, period)) for period in MEASURES]
        quota = self.ledger.rate_limits(account.tag)
        return {
            "credential": credential_status(account.credentials),
            "windows": [window_status(period, *window) for period, window in found if window is not None],
            "rate_limits": None if quota is None else {"seen_at": iso(quota.at), **asdict(quota.limits)},
        }


def user_state(user: User, now: float) -> UserState:
    """Return whether a user is served.

    :param now: Unix seconds.
    """
    if user.disabled:
        return "disabled"
    return "expired" if user.expires_at is not None and user.expires_at <= now else "active"


def user_status(user: User, uses: Iterable[LimitUsage]) -> dict[str, Any]:
    """Return what a user may do, and how much of their limits is used."""
    return {
        "name": user.name,
        "admin": user.admin,
        "disabled": user.disabled,
        "models": list(user.models),
        "max_concurrent": user.max_concurrent,
        "expires_at": iso(user.expires_at),
        "limits": [limit_status(use) for use in uses],
    }


def credential_status(credentials: CredentialSource) -> dict[str, Any]:
    """Return the state of the owner's credential. Refreshes nothing."""
    try:
        credential = credentials.peek()
    except CredentialError as exc:
        return {"usable": False, "problem": exc.message, "mode": None, "plan_type": None, "expires_at": None}
    return {
        "usable": True,
        "problem": None,
        "mode": credential.mode.value,
        "plan_type": credential.plan_type,
        "expires_at": iso(credential.expires_at),
    }


def fullness(use: LimitUsage) -> float:
    """Return how much of a limit is used, in percent; 100 or more when it is reached."""
    return float(use.used / use.limit.amount * 100)


def limit_status(use: LimitUsage) -> dict[str, Any]:
    """Return how much of a limit is used, for programs."""
    return {
        "limit": str(use.limit),
        "unit": use.limit.unit,
        "period": use.limit.period,
        "amount": float(use.limit.amount),
        "used": round(float(use.used), 6),
        "used_percent": round(fullness(use), 3),
        "reached": use.is_reached,
        "starts_at": iso(use.span.start),
        "resets_at": iso(use.span.end),
    }


def window_status(period: Period, cycle: Cycle, shares: Shares) -> dict[str, Any]:
    """Return how one of upstream's windows is shared among the users, for programs."""
    return {
        "period": period,
        "starts_at": iso(cycle.start),
        "resets_at": iso(cycle.end),
        "used_percent": round(shares.used_percent, 3),
        "outside_percent": round(shares.outside, 3),
        "users": {user: round(part, 3) for user, part in shares.percents.items()},
    }
