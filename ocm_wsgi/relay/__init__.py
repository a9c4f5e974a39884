"""Moves open responses and WebSockets in one event loop. Knows neither gunicorn nor Flask.

``loop`` waits for sockets and deadlines, ``peer`` is a non-blocking socket, ``stream`` one response and ``tunnel`` one
WebSocket in transit; ``request_arrival`` waits for requests and ``lingering_close`` closes connections. ``handoff`` is
the contract with the server, ``answer`` that with accounting and ownership. ``disconnects`` is for requests that are
still in a thread. ``decision_queue`` lets threads decide after the loop's streams, and for all users in turn.
``admission_queue`` and ``held_memory`` bound what one user's messages cost.
"""

from __future__ import annotations

__all__ = [
    "admission_queue",
    "answer",
    "decision_queue",
    "disconnects",
    "handoff",
    "held_memory",
    "lingering_close",
    "loop",
    "peer",
    "read_on",
    "request_arrival",
    "stream",
    "tunnel",
    "websocket_objects",
    "websocket_turns",
]
