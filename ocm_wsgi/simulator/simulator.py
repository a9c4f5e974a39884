"""The simulator as tests and the demo hold it: start, plan, ask, stop."""

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
from ocm_wsgi.simulator.recording import Create, Journal, Refresh, Seen, Sent, Turn
from ocm_wsgi.simulator.server import Server
from ocm_wsgi.simulator.targets import CODEX_BASE


class Simulator:
    """OpenAI on loopback: the Codex backend, the platform API and the OAuth issuer on one port.

    A context manager. All methods are thread-safe.

    :param port: 0 takes any free one.
    :param ssl_context: of a TLS server; ``None``: plain HTTP.
    :param clock: what the simulator takes for now, in Unix seconds: expiry, records, reset times.
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
        """Bind and serve; return the simulator."""
        self._server = Server(self._world, self._host, self._port, self._ssl_context)
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._world.url = f"{scheme}://{host}:{self._server.port}"
        self._server.start()
        return self

    def stop(self) -> None:
        """Close every connection, join every thread, free the port. A second call does nothing."""
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
        """Return the content of a fresh ``auth.json`` in ChatGPT mode, as Codex 0.169 writes it.

        :param expires_in: seconds; negative: its access token is past its time already.
        :param last_refresh: ``None``: now.
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
        """Seconds until the access tokens of a refresh or a login expire."""
        return self._world.issuer.token_lifetime

    @token_lifetime.setter
    def token_lifetime(self, seconds: float) -> None:
        self._world.issuer.token_lifetime = seconds

    def expire(self, token: str | None = None) -> None:
        """Let an access token be past its time, whatever its ``exp`` says, or a refresh token; ``None``: all access."""
        self._world.issuer.expire(token)

    def revoke_all(self) -> None:
        """Invalidate every token, access and refresh."""
        self._world.issuer.revoke_all()

    @property
    def device_polls(self) -> int | None:
        """How many polls find a device login pending before it is approved; ``None``: until :meth:`approve_device`."""
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

    def plan(self, plan: Plan, *, path: str | None = None, times: int = 1) -> None:
        """Queue what the next matching request gets; first come, first served.

        A request that is not authorised gets its 401 and takes no plan; nor does the prewarm of a WebSocket.

        :param path: for targets that begin so; ``None``: any of ``/backend-api/codex`` and ``/v1``.
        """
        self._world.plans.add(plan, path=path, times=times)

    @property
    def default_plan(self) -> Plan:
        """What requests of the API get for which no plan waits."""
        return self._world.plans.default

    @default_plan.setter
    def default_plan(self, plan: Plan) -> None:
        self._world.plans.default = plan

    def gate(self) -> Gate:
        return Gate()

    @property
    def requests(self) -> list[Seen]:
        """Every request, oldest first, as it was when its body had been read."""
        return self._journal.requests

    def seen(self, path_prefix: str) -> list[Seen]:
        """Return the requests whose target begins so."""
        return [seen for seen in self.requests if seen.target.startswith(path_prefix)]

    @property
    def bad_messages(self) -> list[str]:
        """Why messages were refused that a strict origin would not take, truncated bodies among them."""
        return self._journal.bad_messages

    @property
    def sent(self) -> list[Sent]:
        """The body of every response, as it was put on the wire."""
        return self._journal.sent

    @property
    def turns(self) -> list[Turn]:
        """Every turn that ended or was cut; recorded just before its last event is sent."""
        return self._journal.turns

    @property
    def creates(self) -> list[Create]:
        """Every ``response.create`` that came over a WebSocket, prewarms too."""
        return self._journal.creates

    @property
    def refreshes(self) -> list[Refresh]:
        """Every refresh token that was presented."""
        return self._journal.refreshes

    @property
    def open_streams(self) -> int:
        """The number of responses being sent now."""
        return self._journal.open_streams

    @property
    def open_connections(self) -> int:
        """The number of TCP connections that are open now."""
        return self._journal.open_connections

    def wait_for(self, condition: Callable[[], object], timeout: float = 30.0) -> bool:
        """Wait until ``condition()`` is true, asked after each change of what was seen; return whether it is."""
        return self._journal.wait_for(condition, timeout)

    def clear(self) -> None:
        """Forget what was seen."""
        self._journal.clear()
