"""What accounts must be to be members of a pool."""

from __future__ import annotations

from ocm_wsgi.config import Config
from ocm_wsgi.credentials.auth_file_reader import holds_api_key
from ocm_wsgi.errors import ConfigProblem, ConfigurationError


def require_subscriptions(config: Config) -> None:
    """Require that no member of a pool is an API key, which has other endpoints and no windows.

    Without a credential, or with one that cannot be read, nothing is known yet. A member that becomes an API key later
    is passed over.

    :raises ConfigurationError: naming each member that is one.
    """
    paths = {account.tag: account.credential_path for account in config.accounts}
    problems = [
        ConfigProblem(
            f"$..credentials[{number}].credentials",
            f'"{tag}", whose credential at {paths[tag]} is an API key',
            "accounts that are signed in to ChatGPT",
        )
        for number, entry in enumerate(config.credentials)
        for pool in config.pools
        if pool.tag == entry.tag
        for tag in pool.members
        if holds_api_key(paths[tag])
    ]
    if problems:
        raise ConfigurationError(config.source, problems)
