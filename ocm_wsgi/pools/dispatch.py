"""Sends a request with the account that serves its user, or with one of a pool: the next one if one refuses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from ocm_wsgi.accounting.turn_accounting import nothing_to_release
from ocm_wsgi.credentials import Credential, Mode
from ocm_wsgi.errors import (
    CredentialError,
    CredentialRejected,
    OcmError,
    PoolUsedUp,
    PreviousResponseNotFound,
    RequestUnauthorized,
    UpstreamUnreachable,
)
from ocm_wsgi.ownership.owners import Owners
from ocm_wsgi.pools.account import UpstreamAccount
from ocm_wsgi.pools.affinity import affinity_key
from ocm_wsgi.pools.blocks import LIMIT_REASONS
from ocm_wsgi.pools.pool import Pool, Pools
from ocm_wsgi.pools.socket import PoolSocket
from ocm_wsgi.protocol.http.fields import value_of
from ocm_wsgi.protocol.responses import rate_limits
from ocm_wsgi.protocol.responses.account_refusal import AccountRefusal, account_refusal
from ocm_wsgi.protocol.responses.first_events import early_failure, is_decided
from ocm_wsgi.protocol.responses.pool_fields import pool_fields
from ocm_wsgi.upstream.client import ClientRequest, UpstreamResponse

_log = logging.getLogger(__name__)

#: Fields in which clients name a conversation, the first of them first.
SESSION_FIELDS = ("session-id", "session_id", "thread-id", "conversation_id")
#: A token of upstream's that belongs to the account that has given it.
TURN_STATE_FIELD = "x-codex-turn-state"

#: How long the first events of a stream are held back until it is known that they are no refusal, in seconds. Upstream
#: refuses at once; while it prepares a response, the events so far are passed on.
EARLY_SECONDS = 1.0

#: How long a worker does not use an account whose credential does not work, or that cannot be reached, in seconds.
CREDENTIAL_SECONDS = 30.0
UNREACHABLE_SECONDS = 10.0


class SingleDispatch:
    """Sends a request with one account, whatever becomes of it.

    :ivar tag: of the account.
    :ivar mode: decides which endpoints there are.
    :ivar pool: ``None``: what upstream says of its windows passes unchanged.
    :ivar release: call it when a turn has ended.
    """

    pool: Pool | None = None
    #: Whether any account has been asked, when a request has failed.
    was_asked = True

    def __init__(self, account: UpstreamAccount) -> None:
        """:raises CredentialError: there is no credential."""
        self.account = account
        self.tag = account.tag
        self.credential = account.credentials.current()
        self.mode = self.credential.mode
        self.release: Callable[[], None] = nothing_to_release

    def open(
        self,
        sent: ClientRequest,
        *,
        cache_key: str | None = None,
        references: Collection[str] = (),
        is_turn: bool = False,
    ) -> UpstreamResponse:
        """Send the request and return its response; see :meth:`Upstream.open`."""
        return self.account.upstream.open(sent, self.credential)

    def unauthorized(self, error_code: str | None) -> OcmError:
        """Return what the client of a WebSocket gets in place of a 401; see :meth:`CredentialSource.replace_later`."""
        return self.account.credentials.replace_later(self.credential, error_code)

    def socket(self) -> None:
        """Return ``None``: nothing else could take a WebSocket over."""
        return

    def show(self, upstream: UpstreamResponse) -> None:
        """Do nothing: the response is shown as it is."""


class PoolDispatch:
    """Sends a request with the accounts of a pool, each of them once at most, until one does not refuse it.

    That is decided before anything of a response has been sent to the client. A request that belongs to what one
    account stores is sent with that account only.

    :ivar tag: of the pool.
    :ivar account: that has been asked last; the first member before.
    :ivar credential: with which it was asked.
    :ivar mode: only ChatGPT accounts are used in pools.
    """

    mode = Mode.CHATGPT

    def __init__(self, pools: Pools, pool: Pool, user: str, owners: Owners) -> None:
        self.pool: Pool | None = pool
        self.tag = pool.tag
        self._pool = pool
        self._pools = pools
        self._user = user
        self._owners = owners
        self._tried: list[str] = []
        self._state_owner: str | None = None
        self.account = pool.members[0]
        self.credential: Credential | None = None
        self.release: Callable[[], None] = nothing_to_release

    @property
    def was_asked(self) -> bool:
        """Whether any account has been asked."""
        return self.credential is not None

    def open(
        self,
        sent: ClientRequest,
        *,
        cache_key: str | None = None,
        references: Collection[str] = (),
        is_turn: bool = False,
    ) -> UpstreamResponse:
        """Send the request and return the response of the first account that does not refuse it.

        If all of them do, what the last one answers is returned or raised, unless it is known when an account can be
        used again.

        :param cache_key: the client's name for requests that begin alike, if its fields name no conversation.
        :param references: stored objects that the request refers to.
        :param is_turn: whether to count it as a turn in progress, until ``release``.
        :raises PoolUsedUp: no account can be used now.
        :raises PreviousResponseNotFound: the request refers to what no account of the pool stores.
        """
        key = self._conversation(sent.fields, cache_key)
        bound = self._bound(references)
        self._state_owner = self._owner_of_state(sent.fields)
        while True:
            account = bound or self._pools.choose(self._pool, key, self._tried)
            if account is None:
                raise self._pools.exhausted(self._pool)
            self._tried.append(account.tag)
            if is_turn:
                self.release = self._pools.uses.in_flight.begin(account.tag)
            try:
                upstream = self._answer(account, sent, is_bound=bound is not None, is_turn=is_turn)
            except BaseException:
                self.release()
                raise
            if upstream is not None:
                return upstream
            self.release()
            sent.exchange.begin_again()

    def unauthorized(self, error_code: str | None) -> OcmError:
        """Return what the client of a WebSocket gets in place of a 401; see :meth:`CredentialSource.replace_later`."""
        assert self.credential is not None, "the WebSocket was opened with it"
        return self.account.credentials.replace_later(self.credential, error_code)

    def socket(self) -> PoolSocket:
        """Return the account as a WebSocket uses it that was opened with it."""
        return PoolSocket(self._pools, self._pool, self.account.tag)

    def show(self, upstream: UpstreamResponse) -> None:
        """Show the client the windows of all accounts, in place of those of the one that has answered."""
        figures = self._pools.figures(self._pool)
        upstream.replace_fields(lambda fields: pool_fields(fields, figures))
        state = value_of(upstream.fields, TURN_STATE_FIELD)
        if state is not None:
            self._pools.affinity.put(self._state_key(state), self._pool.tag, self.account.tag)

    def _answer(
        self, account: UpstreamAccount, sent: ClientRequest, *, is_bound: bool, is_turn: bool
    ) -> UpstreamResponse | None:
        """Return an account's response; ``None`` if another account is to be asked."""
        try:
            upstream = self._ask(account, sent)
        except (CredentialError, RequestUnauthorized, UpstreamUnreachable) as exc:
            exchange = sent.exchange
            if is_bound or (isinstance(exc, UpstreamUnreachable) and (exchange.aborted or exchange.is_sent)):
                # Nobody waits for another response; or upstream may be working on this one.
                raise
            if not self._has_candidate():
                # It does not rest: a short failure of the network must not leave the pool without any account.
                raise self._last(exc) from exc
            self._rest(account, exc)
            _log.info("The credential %s cannot serve a request of %s: %s", account.tag, self._user or "-", exc)
            return None
        now = self._pools.clock()
        refusal = account_refusal(upstream.status, upstream.fields, upstream.peek_error, now)
        if refusal is None and is_turn and not is_bound:
            refusal = self._early_refusal(upstream)
        if refusal is None:
            return upstream
        limits = rate_limits.from_fields(upstream.fields)
        if limits is not None:
            self._pools.note_limits(limits, account.tag)
        self._block(account, refusal, now)
        if is_bound or (not self._has_candidate() and not self._is_used_up(refusal)):
            return upstream
        upstream.close()
        if not self._has_candidate():
            raise self._pools.exhausted(self._pool)
        _log.info("The credential %s refuses a request of %s: %s", account.tag, self._user or "-", refusal.reason)
        return None

    def _early_refusal(self, upstream: UpstreamResponse) -> AccountRefusal | None:
        """Return the refusal with which a stream begins, provided that it is there soon."""
        beginning = upstream.peek_stream(EARLY_SECONDS, is_decided)
        failure = early_failure(beginning) if beginning else None
        if failure is None:
            return None
        status, document = failure
        return account_refusal(status, upstream.fields, lambda: document, self._pools.clock())

    def _ask(self, account: UpstreamAccount, sent: ClientRequest) -> UpstreamResponse:
        self.account = account
        credential = account.credentials.current()
        if credential.mode is not Mode.CHATGPT:
            raise CredentialRejected("Pools use ChatGPT accounts only.", detail=f"{account.tag} is an API key")
        self.credential = credential
        fields = sent.fields
        if sent.is_upgrade:
            # Messages about rate limits are replaced, which a compressed WebSocket does not allow.
            fields = [field for field in fields if field[0].lower() != "sec-websocket-extensions"]
        if self._state_owner is not None and self._state_owner != account.tag:
            fields = [field for field in fields if field[0].lower() != TURN_STATE_FIELD]
        return account.upstream.open(replace(sent, fields=fields), credential)

    def _conversation(self, fields: Sequence[tuple[str, str]], cache_key: str | None) -> str | None:
        """Return the key of the request's conversation; ``None`` if it names none."""
        values = {name.lower(): value for name, value in fields if name.lower() in SESSION_FIELDS}
        name = next((values[field] for field in SESSION_FIELDS if values.get(field)), cache_key)
        return None if not name else affinity_key("session", self._pool.tag, self._user, name)

    def _bound(self, references: Collection[str]) -> UpstreamAccount | None:
        """Return the account that stores what the request refers to; ``None`` if it refers to nothing."""
        tags = self._owners.credentials_of(references) if references else set()
        if not tags:
            return None
        members = [member for member in self._pool.members if member.tag in tags]
        if len(tags) > 1 or not members:
            message = "The request refers to a response that cannot be continued here."
            raise PreviousResponseNotFound(message, param="previous_response_id")
        return members[0]

    def _owner_of_state(self, fields: Sequence[tuple[str, str]]) -> str | None:
        state = value_of(fields, TURN_STATE_FIELD)
        return None if state is None else self._pools.affinity.get(self._state_key(state))

    def _state_key(self, state: str) -> str:
        return affinity_key("turn-state", self._user, state)

    def _has_candidate(self) -> bool:
        now, uses = self._pools.clock(), self._pools.uses.of(self._pool.tags)
        return any(use.is_usable(now) for use in uses if use.tag not in self._tried)

    def _is_used_up(self, refusal: AccountRefusal) -> bool:
        return refusal.reason in LIMIT_REASONS and refusal.blocked_until is not None

    def _last(self, exc: OcmError) -> OcmError:
        """Return the error when the last account has failed: when others can be used again, if that is known."""
        exhausted = self._pools.exhausted(self._pool, without=self.account.tag)
        return exhausted if isinstance(exhausted, PoolUsedUp) else exc

    def _block(self, account: UpstreamAccount, refusal: AccountRefusal, now: float) -> None:
        if refusal.blocked_until is not None and refusal.blocked_until > now:
            self._pools.blocks.block(account.tag, refusal.blocked_until, refusal.reason, pool=self._pool.tag)

    def _rest(self, account: UpstreamAccount, exc: OcmError) -> None:
        if isinstance(exc, CredentialError):
            self._pools.blocks.rest(account.tag, CREDENTIAL_SECONDS, "credential")
        elif isinstance(exc, UpstreamUnreachable):
            self._pools.blocks.rest(account.tag, UNREACHABLE_SECONDS, "unreachable")


Dispatch = SingleDispatch | PoolDispatch
