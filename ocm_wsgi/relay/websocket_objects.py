"""The stored objects of one WebSocket: which ones its messages may name, and whose its responses are.

A response that is not stored exists on its own WebSocket only. There its ID passes, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ocm_wsgi.accounting.recorder import OnRecorded
from ocm_wsgi.ownership.access import Access, require_references
from ocm_wsgi.ownership.owners import Owners
from ocm_wsgi.protocol.objects.answers import objects_in
from ocm_wsgi.protocol.responses.references import FindReferences
from ocm_wsgi.protocol.responses.turn import Outcome
from ocm_wsgi.protocol.websocket.client_messages import ClientMessage
from ocm_wsgi.protocol.websocket.session import WebSocketSession
from ocm_wsgi.users.user import User


class WebSocketObjects:
    """Decides what the messages of one WebSocket may name, and claims what its responses are.

    :param access: of the handshake.
    :param sees_all: returns whether a user may use everyone's objects.
    """

    def __init__(self, owners: Owners, access: Access, sees_all: Callable[[User], bool]) -> None:
        self._owners = owners
        self._access = access
        self._sees_all = sees_all
        self._response_ids: set[str] = set()
        self._claimed: set[str] = set()

    @property
    def credential(self) -> str:
        """The tag of the account that serves the WebSocket."""
        return self._access.credential

    @property
    def find_references(self) -> FindReferences:
        """Finds what a message refers to."""
        return self._access.find_references

    def had(self, response_id: str) -> bool:
        """Return whether a response of this WebSocket has this ID and has ended."""
        return response_id in self._response_ids

    def require(self, user: User, message: ClientMessage, session: WebSocketSession[Any]) -> None:
        """Require that a message names only what is its user's, or a response of this WebSocket. May block.

        :raises ReferenceNotFound: it names something else.
        :raises StateError: that cannot be decided at the moment.
        """
        if self._sees_all(user):
            return
        named = [each for each in message.facts.references - self._response_ids if session.turn_of(each) is None]
        if named:
            require_references(self._owners, user.name, named)

    def note(self, outcome: Outcome) -> None:
        """Note the ID of a response that has ended: later messages may continue it."""
        response_id = None if outcome.body is None else outcome.body.get("id")
        if isinstance(response_id, str):
            self._response_ids.add(response_id)

    def claim_async(self, response: Mapping[str, Any] | None, turn_id: str, on_recorded: OnRecorded) -> bool:
        """Record the user as the owner of a response and of its items, if upstream stores it, without waiting.

        :param response: as upstream has created it or, with its items, as it has ended.
        :param on_recorded: called once from another thread, if there is something to record.
        :return: whether there is.
        """
        creates = self._access.endpoint.creates
        if creates is None or response is None or not self._access.user:
            return False
        objects = [each for each in objects_in(response, creates) if each.id not in self._claimed]
        if not objects:
            return False
        self._claimed.update(each.id for each in objects)
        self._owners.claim_async(
            self._access.user, objects, on_recorded, credential=self._access.credential, turn=turn_id
        )
        return True
