"""The service as one value: everything that a request needs, built once from the configuration. No Flask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ocm_wsgi.accounting.ledger import Ledger
from ocm_wsgi.accounting.settlement import Settlements
from ocm_wsgi.accounting.spool import Spool
from ocm_wsgi.accounting.turn_accounting import Accounting
from ocm_wsgi.accounting.usages_export import UsagesExport
from ocm_wsgi.accounting.window_history import WindowHistory
from ocm_wsgi.admission.admission import Admission
from ocm_wsgi.background.fetcher import BackgroundFetcher
from ocm_wsgi.config import Config
from ocm_wsgi.credentials import CredentialSource, Mode, Refresher
from ocm_wsgi.ownership.owners import Owners
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable
from ocm_wsgi.relay.disconnects import DisconnectMonitor
from ocm_wsgi.reporting import prometheus
from ocm_wsgi.storage.database import Database
from ocm_wsgi.tls import contexts
from ocm_wsgi.upstream.client import Upstream
from ocm_wsgi.users.directory import UserDirectory


@dataclass(frozen=True)
class Service:
    """Everything that the views use.

    It may be made before or after gunicorn forks: no part opens a connection, a file or a thread before its first use.
    """

    config: Config
    database: Database
    credentials: CredentialSource
    endpoints: Mapping[Mode, EndpointTable]
    owners: Owners
    settlements: Settlements
    users: UserDirectory
    admission: Admission
    upstream: Upstream
    background: BackgroundFetcher
    disconnects: DisconnectMonitor
    ledger: Ledger
    window_history: WindowHistory
    accounting: Accounting
    usages_export: UsagesExport | None

    @classmethod
    def from_config(cls, config: Config) -> Service:
        """Build the service."""
        credentials = _credentials(config)
        upstream = _upstream(config, credentials)
        database = Database(config.database_url)
        window_history = WindowHistory(database)
        ledger = Ledger(database, Spool(config.state_path / "spool"))
        settlements = Settlements(ledger, config.prices)
        usages_export = UsagesExport(config.usages_path, database) if config.usages_path else None
        return cls(
            config=config,
            database=database,
            credentials=credentials,
            settlements=settlements,
            owners=Owners(database, Spool(config.state_path / "owners")),
            endpoints=_endpoints(config),
            users=UserDirectory(config.users, database),
            admission=Admission(config, database, window_history, is_api_key=credentials.is_api_key),
            upstream=upstream,
            background=BackgroundFetcher(
                database, credentials, upstream, settlements, config.state_path / "background.lock"
            ),
            disconnects=DisconnectMonitor(),
            ledger=ledger,
            window_history=window_history,
            accounting=Accounting(ledger, config.prices, window_history, usages_export),
            usages_export=usages_export,
        )

    def start(self) -> None:
        """Recover what an earlier process left unfinished now, instead of at the first record."""
        self.ledger.start()
        self.owners.start()
        self.background.start()
        prometheus.start_sampling(self.ledger)
        if self.usages_export is not None:
            self.usages_export.start()

    def close(self) -> None:
        """Write pending records at the end of a process. May be called even if nothing was used."""
        self.background.close()
        self.ledger.close()
        self.owners.close()
        if self.usages_export is not None:
            self.usages_export.close()
        self.upstream.close()


def _credentials(config: Config) -> CredentialSource:
    refresher = Refresher(
        auth_base_url=config.auth_base_url,
        proxy_url=_proxy_url(config),
        trust=config.certificate,
        on_outcome=prometheus.count_refresh,
    )
    return CredentialSource(config.credential_path, state_path=config.state_path, refresher=refresher)


def _upstream(config: Config, credentials: CredentialSource) -> Upstream:
    return Upstream(
        credentials,
        chatgpt_base_url=config.chatgpt_base_url,
        api_base_url=config.api_base_url,
        overrides=config.headers,
        tls=contexts.upstream_context(config.certificate),
        proxy_url=_proxy_url(config),
    )


def _proxy_url(config: Config) -> str | None:
    return config.proxy_url.get_secret_value() if config.proxy_url else None


def _endpoints(config: Config) -> Mapping[Mode, EndpointTable]:
    extra = [added.endpoint() for added in config.extra_endpoints]
    return {Mode.CHATGPT: CHATGPT.extended(extra), Mode.API_KEY: PLATFORM.extended(extra)}
