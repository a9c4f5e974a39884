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
from ocm_wsgi.config import AccountConfig, Config
from ocm_wsgi.credentials import CredentialSource, Mode, Refresher
from ocm_wsgi.ownership.owners import Owners
from ocm_wsgi.pools.account import UpstreamAccount, UpstreamAccounts
from ocm_wsgi.pools.affinity import Affinity
from ocm_wsgi.pools.blocks import Blocks
from ocm_wsgi.pools.dispatch import PoolDispatch, SingleDispatch
from ocm_wsgi.pools.pool import Pool, Pools
from ocm_wsgi.pools.uses import AccountUses
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable
from ocm_wsgi.quota.choosing import plan_weight
from ocm_wsgi.relay.disconnects import DisconnectMonitor
from ocm_wsgi.reporting import prometheus
from ocm_wsgi.storage.database import Database
from ocm_wsgi.tls import contexts
from ocm_wsgi.upstream.client import Upstream
from ocm_wsgi.users.directory import UserDirectory
from ocm_wsgi.users.user import User


@dataclass(frozen=True)
class Service:
    """Everything that the views use.

    It may be made before or after gunicorn forks: no part opens a connection, a file or a thread before its first use.
    """

    config: Config
    database: Database
    accounts: UpstreamAccounts
    pools: Pools
    endpoints: Mapping[Mode, EndpointTable]
    owners: Owners
    settlements: Settlements
    users: UserDirectory
    admission: Admission
    background: BackgroundFetcher
    disconnects: DisconnectMonitor
    ledger: Ledger
    window_history: WindowHistory
    accounting: Accounting

    @classmethod
    def from_config(cls, config: Config) -> Service:
        """Build the service."""
        database = Database(config.database_url)
        accounts = _accounts(config, database)
        window_history = WindowHistory(database)
        ledger = Ledger(database, Spool(config.state_path / "spool"))
        settlements = Settlements(ledger, config.prices)
        accounting = Accounting(ledger, config.prices, window_history, accounts.usages_exports())
        return cls(
            config=config,
            database=database,
            accounts=accounts,
            pools=_pools(config, database, accounts, ledger, accounting),
            settlements=settlements,
            owners=Owners(database, Spool(config.state_path / "owners")),
            endpoints=_endpoints(config),
            users=UserDirectory(config.users, database),
            admission=Admission(
                config,
                database,
                window_history,
                is_api_key=accounts.is_api_key,
                weight_of=lambda tag: plan_weight(accounts.plan_of(tag)),
            ),
            background=BackgroundFetcher(database, accounts, settlements, config.state_path / "background.lock"),
            disconnects=DisconnectMonitor(),
            ledger=ledger,
            window_history=window_history,
            accounting=accounting,
        )

    def dispatch(self, user: User) -> SingleDispatch | PoolDispatch:
        """Return the way of a user's request to OpenAI.

        :raises CredentialError: there is no credential.
        """
        pool = self.pools.of(user)
        if pool is None:
            return SingleDispatch(self.accounts.of(user))
        return PoolDispatch(self.pools, pool, user.name, self.owners)

    def start(self) -> None:
        """Recover what an earlier process left unfinished now, instead of at the first record."""
        self.ledger.start()
        self.owners.start()
        self.background.start()
        prometheus.start_sampling(self.ledger)
        for export in self.accounts.usages_exports():
            export.start()

    def close(self) -> None:
        """Write pending records at the end of a process. May be called even if nothing was used."""
        self.background.close()
        self.ledger.close()
        self.owners.close()
        for export in self.accounts.usages_exports():
            export.close()
        for account in self.accounts.all():
            account.upstream.close()


def _accounts(config: Config, database: Database) -> UpstreamAccounts:
    return UpstreamAccounts({account.tag: _account(config, account, database) for account in config.accounts})


def _pools(
    config: Config, database: Database, accounts: UpstreamAccounts, ledger: Ledger, accounting: Accounting
) -> Pools:
    pools = {
        pool.tag: Pool(
            pool.tag, tuple(accounts.by_tag[tag] for tag in pool.members), pool.strategy, pool.rebalance_threshold
        )
        for pool in config.pools
    }
    blocks = Blocks(database)
    uses = AccountUses(config.accounts, ledger, blocks, accounts.plan_of)
    first = pools.get(config.first_credential)
    return Pools(pools, first, uses, Affinity(database), blocks, accounting.note_rate_limits)


def _account(config: Config, account: AccountConfig, database: Database) -> UpstreamAccount:
    proxy_url = account.proxy_url.get_secret_value() if account.proxy_url else None
    refresher = Refresher(
        auth_base_url=config.auth_base_url,
        proxy_url=proxy_url,
        trust=config.certificate,
        on_outcome=prometheus.count_refresh,
    )
    credentials = CredentialSource(account.credential_path, state_path=config.state_path, refresher=refresher)
    upstream = Upstream(
        credentials,
        chatgpt_base_url=config.chatgpt_base_url,
        api_base_url=config.api_base_url,
        overrides=config.headers,
        tls=contexts.upstream_context(config.certificate),
        proxy_url=proxy_url,
    )
    # The file of the only account contains all turns, also those of accounts that there were before.
    tag = account.tag if config.credentials else None
    export = UsagesExport(account.usages_path, database, credential=tag) if account.usages_path else None
    return UpstreamAccount(account.tag, credentials, upstream, export)


def _endpoints(config: Config) -> Mapping[Mode, EndpointTable]:
    extra = [added.endpoint() for added in config.extra_endpoints]
    return {Mode.CHATGPT: CHATGPT.extended(extra), Mode.API_KEY: PLATFORM.extended(extra)}
