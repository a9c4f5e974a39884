"""The turns of one WebSocket, and which of them each event of upstream concerns. Pure; no I/O.

A ``response.create`` opens a turn in its lane: responses with the same ``stream_id``, or without one, come one after
another, and lanes side by side. A ``response.steer`` opens a turn that follows the response it names, or disappears if
the next ``response.create`` takes its input over. ``response.created`` gives a turn its response's ID, by which the
events that end turns are distinguished. A response that nobody is known to have asked for becomes a turn, too.

Source: https://developers.openai.com/api/docs/guides/websocket-mode and ``.../guides/steering``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ocm_wsgi.protocol.responses.estimate import OutputMeter
from ocm_wsgi.protocol.responses.turn import Outcome
from ocm_wsgi.protocol.websocket.client_messages import ClientMessage

T = TypeVar("T")

# How many responses that have ended are remembered, as they may still be steered.
_REMEMBERED = 8


@dataclass(eq=False)
class OpenTurn(Generic[T]):
    """A turn in progress.

    :ivar lane: the ``stream_id`` of its events, or ``None``.
    :ivar parent: the response that it continues, or ``None``.
    :ivar response_id: of its own response, once upstream has created that.
    :ivar steer_id: upstream's name for the input of a ``response.steer``, once that was accepted.
    :ivar error: an error that may have ended it.
    :ivar meter: of what upstream has sent since it was opened, for all turns.
    """

    turn: T
    lane: str | None = None
    parent: str | None = None
    is_steer: bool = False
    response_id: str | None = None
    steer_id: str | None = None
    error: Outcome | None = None
    meter: OutputMeter = field(default_factory=OutputMeter)

    @property
    def is_waiting(self) -> bool:
        """Whether upstream has not created its response yet."""
        return self.response_id is None


class OpenTurns(Generic[T]):
    """The turns in progress, in the order in which they were opened.

    :param adopt: returns a turn for a response that nobody is known to have asked for, given its model or ``None``.
    """

    def __init__(self, adopt: Callable[[str | None], T]) -> None:
        self._adopt = adopt
        self._turns: list[OpenTurn[T]] = []
        self._by_response: dict[str, OpenTurn[T]] = {}

    def __len__(self) -> int:
        return len(self._turns)

    def feed(self, data: bytes, *, is_readable: bool) -> None:
        """Measure what upstream sends, for every turn in progress: which of them it concerns is not known yet.

        :param data: a read, or decompressed text.
        """
        for turn in self._turns:
            if is_readable:
                turn.meter.feed(data)
            else:
                turn.meter.feed_unreadable(data)

    def of_response(self, response_id: str) -> OpenTurn[T] | None:
        """Return the turn of a response that is in progress or has ended lately. Any thread may call this."""
        return self._by_response.get(response_id)

    def open(self, turn: T, message: ClientMessage) -> None:
        """Open the turn that a message asks for."""
        lane = message.stream_id
        is_steer = message.purpose == "steer"
        if is_steer:
            steered = self.of_response(message.response_id or "")
            lane = None if steered is None else steered.lane
        self._turns.append(OpenTurn(turn, lane, message.response_id, is_steer))

    def created(
        self, response_id: str, *, parent: str | None, lane: str | None, model: str | None
    ) -> list[OpenTurn[T]]:
        """Note that upstream has created a response.

        :return: its turn, and then those that will have no response because their input went into this one.
        """
        steers = [turn for turn in self._waiting(lane, steers=True) if turn.parent == parent or parent is None]
        creates = self._waiting(lane, steers=False)
        chosen = next((turn for turn in creates if parent is not None and turn.parent == parent), None)
        absorbed: list[OpenTurn[T]] = []
        if chosen is None and steers and (parent is not None or not creates):
            chosen, *others = steers
            absorbed = [turn for turn in others if turn.steer_id is not None and turn.parent == chosen.parent]
        if chosen is None:
            chosen = creates[0] if creates else self._adopted(model, lane)
        chosen.response_id = response_id
        self._by_response[response_id] = chosen
        self._remove(absorbed)
        return [chosen, *absorbed]

    def ended(
        self, response_id: str | None, *, lane: str | None, model: str | None, is_counted: bool
    ) -> list[OpenTurn[T]]:
        """Close the turn of a response that has ended.

        :param is_counted: whether the response becomes a turn if nobody is known to have asked for it.
        :return: the turn, and then those that will have no response because their input went into this one.
        """
        ended = self._by_response.get(response_id) if response_id is not None else None
        if ended is None or ended not in self._turns:
            candidates = self._waiting(lane, steers=False)
            if response_id is None:
                begun = [turn for turn in self._turns if not turn.is_waiting]
                candidates = [turn for turn in begun if turn.lane == lane] or candidates or begun
            if not candidates and not is_counted:
                return []
            ended = candidates[0] if candidates else self._adopted(model, lane)
        # A steer of its parent that is still waiting was prepended to its input.
        absorbed = [
            turn
            for turn in self._waiting(ended.lane, steers=True)
            if not ended.is_steer and turn.steer_id is not None and turn.parent == ended.parent
        ]
        self._remove([ended, *absorbed])
        return [ended, *absorbed]

    def failed(self, *, lane: str | None, is_of_stream: bool) -> OpenTurn[T] | None:
        """Return the turn that an ``error`` message concerns, or ``None``; it stays open.

        :param is_of_stream: whether the message is part of a response, and not the reply to a request.
        """
        candidates = [turn for turn in self._turns if turn.lane == lane]
        if not candidates and lane is None:
            candidates = self._turns
        candidates = [turn for turn in candidates if turn.steer_id is None or not turn.is_waiting]
        return next(
            (turn for turn in candidates if turn.is_waiting is not is_of_stream), candidates[0] if candidates else None
        )

    def close(self, turn: OpenTurn[T]) -> None:
        """Close a turn."""
        self._remove([turn])

    def steer_accepted(self, steer_id: str, parent: str) -> None:
        """Note that upstream has accepted the input of the first steer of a response without an answer."""
        for turn in self._turns:
            if turn.is_steer and turn.is_waiting and turn.steer_id is None and turn.parent == parent:
                turn.steer_id = steer_id
                return

    def steer_ended(self, steer_id: str | None, parent: str) -> list[OpenTurn[T]]:
        """Close a steer that will have no response: it failed, or its input will be part of a later request.

        :param steer_id: ``None`` if upstream has not accepted it.
        :return: its turn, if there is one.
        """
        for turn in self._turns:
            if turn.is_steer and turn.is_waiting and turn.steer_id == steer_id and turn.parent == parent:
                self._remove([turn])
                return [turn]
        return []

    def close_all(self) -> list[OpenTurn[T]]:
        """Close all turns, and return them."""
        turns, self._turns = self._turns, []
        return turns

    def _waiting(self, lane: str | None, *, steers: bool) -> list[OpenTurn[T]]:
        return [turn for turn in self._turns if turn.is_waiting and turn.is_steer is steers and turn.lane == lane]

    def _adopted(self, model: str | None, lane: str | None) -> OpenTurn[T]:
        turn = OpenTurn(self._adopt(model), lane)
        self._turns.append(turn)
        return turn

    def _remove(self, turns: Iterable[OpenTurn[T]]) -> None:
        for turn in turns:
            self._turns.remove(turn)
        ended = [id_ for id_, turn in self._by_response.items() if turn not in self._turns]
        for id_ in ended[:-_REMEMBERED]:
            del self._by_response[id_]
