"""Whose request has arrived, as far as that is known without deciding about it."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict

from ocm_wsgi.gateway.environ import Environ
from ocm_wsgi.relay.decision_queue import STRANGER

#: Bearer tokens that are remembered.
MOST_SENDERS = 10_000
_AUTHORIZATION = re.compile(rb"\r\nauthorization:[ \t]*([^\r\n]*)", re.IGNORECASE)


class Senders:
    """The users of bearer tokens that were accepted before.

    Nothing is permitted because of that: it only decides in which queue a request waits. Whoever invents tokens gets no
    queue with each of them. Learns in any thread, and recognises in one.
    """

    def __init__(self) -> None:
        self._users: OrderedDict[bytes, str] = OrderedDict()

    def learn(self, environ: Environ, user: str) -> None:
        """Remember the user of a request that was accepted."""
        authorization = environ.get("HTTP_AUTHORIZATION")
        if authorization is None:
            return
        key = _key(authorization.encode("latin-1"))
        if self._users.get(key) != user:
            self._users[key] = user
            if len(self._users) > MOST_SENDERS:
                self._users.popitem(last=False)

    def user_of(self, head: bytes) -> str:
        """Return the user who has sent a request with this head, or ``STRANGER``."""
        found = _AUTHORIZATION.search(head)
        return self._users.get(_key(found[1]), STRANGER) if found else STRANGER


def _key(authorization: bytes) -> bytes:
    # Not the token itself: it need not be in memory for longer than its request.
    return hashlib.sha256(authorization.strip()).digest()
