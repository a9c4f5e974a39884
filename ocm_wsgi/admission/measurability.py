"""Whether limits can be measured at all: an API key has no subscription, of which a percentage could be limited."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ocm_wsgi.config import Config
from ocm_wsgi.credentials.auth_file_reader import holds_api_key
from ocm_wsgi.errors import ConfigProblem, ConfigurationError, LimitUnmeasurable, UserRejected
from ocm_wsgi.quota.limits import Limit

_REASON = "a part of a ChatGPT subscription, and this service uses an API key, which has none"


def require_measurable_configuration(config: Config) -> None:
    """Require that the limits of the configuration's users can be measured with the credential in its file.

    Without a credential, or with one that cannot be read, nothing is known yet.

    :raises ConfigurationError: naming each limit that cannot.
    """
    problems = []
    for number, user in enumerate(config.users):
        indexes = [index for index, limit in enumerate(user.limits) if limit.percent is not None]
        path = credential_path_of(config, user.credential) if indexes else None
        if path is not None and holds_api_key(path):
            expected = f"usd, tokens or requests: the credential at {path} is an API key"
            problems += [
                ConfigProblem(f"$..users[{number}].limits[{index}].percent", "a percentage of a subscription", expected)
                for index in indexes
            ]
    if problems:
        raise ConfigurationError(config.source, problems)


def credential_path_of(config: Config, tag: str | None) -> Path:
    """Return the path of the credential that serves users whose credential is this one.

    :param tag: ``None`` for the first.
    """
    accounts = {account.tag: account.credential_path for account in config.accounts}
    tag = tag or config.first_credential
    # The members of a pool are all of the same kind.
    tag = next((pool.members[0] for pool in config.pools if pool.tag == tag), tag)
    return accounts.get(tag, config.accounts[0].credential_path)


def require_measurable_for_owner(limits: Iterable[Limit], credential_path: Path) -> None:
    """Require that limits which the owner sets can be measured with the credential in a file.

    :raises UserRejected: with a sentence for the owner.
    """
    limit = _percentage(limits)
    if limit is not None and holds_api_key(credential_path):
        raise UserRejected(f"{limit} is {_REASON}; use a limit in USD, tokens or requests.")


def require_measurable(limits: Iterable[Limit], *, is_api_key: bool) -> None:
    """Require that a user's limits can be measured.

    :raises LimitUnmeasurable: with a sentence for the user.
    """
    limit = _percentage(limits)
    if limit is not None and is_api_key:
        raise LimitUnmeasurable(
            f"Your limit of {limit} is {_REASON}. The owner must change it to one in USD, tokens or requests."
        )


def _percentage(limits: Iterable[Limit]) -> Limit | None:
    return next((limit for limit in limits if limit.unit == "percent"), None)
