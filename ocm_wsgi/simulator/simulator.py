"""The simulator's interface for tests and the demo: start, plan, inspect, stop."""

from __future__ import annotations

import datetime
import ssl
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from ocm_wsgi.simulator.exchange import World
from ocm_wsgi.simulator.issuer import Account, Issuer, credential
from ocm_wsgi.simulator.plans import Gate, Plan
from ocm_wsgi.simulator.recording import Create, Journal, ReceivedRequest, Refresh, Sent, Turn
from ocm_wsgi.simulator.server import Server
from ocm_wsgi.simulator.targets import CODEX_BASE


class Simulator:
    """OpenAI on loopback: the Codex backend, the platform API and the OAuth issuer on one port.

    A context manager. All methods are thread-safe.

    :param port: 0 for any free port.
    :param ssl_context: the server's TLS context, or ``None`` for plain HTTP.
    :param clock: the simulator's time in Unix seconds, for expiry, records and resets.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._clock = clock
        self._journal = Journal(clock)
        self._world = World(self._journal, Issuer(clock))
        self._server: Server | None = None

    def start(self) -> Simulator:
        """Bind and start serving; return the simulator."""
        self._server = Server(self._world, self._host, self._port, self._ssl_context)
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._world.url = f"{scheme}://{host}:{self._server.port}"
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection, join every thread, and free the port. Further calls do nothing."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return self._world.url

    @property
    def chatgpt_base_url(self) -> str:
        return self.url + CODEX_BASE

    @property
    def api_base_url(self) -> str:
        return self.url

    @property
    def auth_base_url(self) -> str:
        return self.url

    def credential(
        self,
        *,
        account: str = "acct-owner",
        expires_in: float = 3600.0,
        plan: str = "plus",
        fedramp: bool = False,
        last_refresh: datetime.datetime | str | None = None,
    ) -> dict[str, Any]:
        """Return the content of a new ``auth.json`` in ChatGPT mode, as Codex 0.169 writes it.

        :param expires_in: seconds; if negative, the access token has expired already.
        :param last_refresh: by default now.
        """
        owner = Account(account, plan, fedramp)
        tokens = self._world.issuer.issue(owner, issuer=self.url, expires_in=expires_in)
        now = datetime.datetime.fromtimestamp(self._clock(), datetime.timezone.utc)
        return credential(tokens, owner, issuer=self.url, last_refresh=last_refresh or now)

    def api_key(self) -> str:
        """Return a new key that ``/v1`` accepts."""
        return self._world.issuer.new_api_key()

    @property
    def token_lifetime(self) -> float:
        """Seconds until access tokens from a refresh or a login expire."""
        return self._world.issuer.token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._world.issuer.token_lifetime = seconds

    def expire(self, token: str | None = None) -> None:
        """Expire an access token, whatever its ``exp`` claim, or a refresh token; ``None`` for all access tokens."""
        self._world.issuer.expire(token)

    def revoke_all(self) -> None:
        """Invalidate every token, access and refresh."""
        self._world.issuer.revoke_all()

    @property
    def device_polls(self) -> int | None:
        """The number of polls that find a device login pending; ``None`` to wait for :meth:`approve_device`."""
        return self._world.devices.polls_before_approval

    @device_polls.setter
    def device_polls(self, polls: int | None) -> None:
        self._world.devices.polls_before_approval = polls

    def approve_device(self, user_code: str) -> None:
        self._world.devices.approve(user_code)

    @property
    def rate_limits(self) -> Mapping[str, Any]:
        """The subscription's windows; see ``ratelimits.py``."""
        return self._world.rate_limits

    @rate_limits.setter
    def rate_limits(self, limits: Mapping[str, Any]) -> None:
        self._world.rate_limits = limits

    @property
    def account_rate_limits(self) -> dict[str, Mapping[str, Any]]:
        """The windows of accounts that have others than :attr:`rate_limits`, by account; change it in place."""
        return self._world.account_rate_limits

    @property
    def account_plans(self) -> dict[str, Plan]:
        """The plans of accounts that have others than :attr:`default_plan`, by account; change it in place."""
        return self._world.plans.defaults

    @property
    def background_polls(self) -> int:
        """How often a background response that is started from now on is fetched while it is still in progress."""
        return self._world.background_polls

    @background_polls.setter
    def background_polls(self, polls: int) -> None:
        self._world.background_polls = polls

    def objects(self, collection: str) -> list[str]:
        """Return the IDs of what the platform stores, such as ``files``, the newest first."""
        return [value["id"] for value in self._world.objects.all(collection)]

    def plan(self, plan: Plan, *, path: str | None = None, times: int = 1, account: str | None = None) -> None:
        """Queue a plan for the next matching request, first in, first out.

        Unauthorized requests get 401 and take no plan; neither does the prewarm of a WebSocket.

        :param path: the prefix of matching targets; by default any below ``/backend-api/codex`` and ``/v1``.
        :param account: whose requests match; by default those of any.
        """
        self._world.plans.add(plan, path=path, times=times, account=account)

    @property
    def default_plan(self) -> Plan:
        """The plan of API requests for which none is queued."""
        return self._world.plans.default

    @default_plan.setter
    def default_plan(self, plan: Plan) -> None:
        self._world.plans.default = plan

    def gate(self) -> Gate:
        return Gate()

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request, oldest first, recorded once its body has been read."""
        return self._journal.requests

    def seen(self, path_prefix: str) -> list[ReceivedRequest]:
        """Return the requests whose target begins with this prefix."""
        return [seen for seen in self.requests if seen.target.startswith(path_prefix)]

    @property
    def bad_messages(self) -> list[str]:
        """The reasons for rejecting malformed requests, including truncated bodies, as a strict origin would."""
        return self._journal.bad_messages

    @property
    def sent(self) -> list[Sent]:
        """The body of every response, as sent."""
        return self._journal.sent

    @property
    def turns(self) -> list[Turn]:
        """Every turn that ended or was cut off, recorded just before its last event is sent."""
        return self._journal.turns

    @property
    def creates(self) -> list[Create]:
        """Every ``response.create`` received over a WebSocket, including prewarms."""
        return self._journal.creates

    @property
    def refreshes(self) -> list[Refresh]:
        """Every use of a refresh token."""
        return self._journal.refreshes

    @property
    def open_streams(self) -> int:
        """The number of responses being sent."""
        return self._journal.open_streams

    @property
    def open_connections(self) -> int:
        """The number of open TCP connections."""
        return self._journal.open_connections

    def wait_for(self, condition: Callable[[], object], timeout: float = 30.0) -> bool:
        """Wait until ``condition()``, called after each new record, is true; return whether it is."""
        return self._journal.wait_for(condition, timeout)

    def clear(self) -> None:
        """Drop all records."""
        self._journal.clear()
