"""The service as one value: everything a request needs, put together once from the configuration. No Flask here."""

from __future__ import annotations

from dataclasses import dataclass

from ocm_wsgi import tls
from ocm_wsgi.config import Config
from ocm_wsgi.credentials import CredentialSource, Refresher
from ocm_wsgi.database import Database
from ocm_wsgi.hangups import HangupMonitor
from ocm_wsgi.upstream import Upstream
from ocm_wsgi.users import UserDirectory


@dataclass(frozen=True)
class Service:
    """What the views work with.

    Made before gunicorn forks or after, as it comes: nothing in it opens a connection, a file or a thread before
    its first use.
    """

    config: Config
    users: UserDirectory
    upstream: Upstream
    hangups: HangupMonitor

    @classmethod
    def from_config(cls, config: Config) -> Service:
        """Put the service together."""
        proxy_url = config.proxy_url.get_secret_value() if config.proxy_url else None
        credentials = CredentialSource(
            config.credential_path,
            state_path=config.state_path,
            refresher=Refresher(auth_base_url=config.auth_base_url, proxy_url=proxy_url, trust=config.certificate),
        )
        return cls(
            config=config,
            users=UserDirectory(config.users, Database(config.database_url)),
            upstream=Upstream(
                credentials,
                chatgpt_base_url=config.chatgpt_base_url,
                api_base_url=config.api_base_url,
                overrides=config.headers,
                tls=tls.upstream_context(config.certificate),
                proxy_url=proxy_url,
            ),
            hangups=HangupMonitor(),
        )
