"""Defences in ``docs/security.md`` that concern WebSockets; see ``security_mutations``."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

CLIENT_MESSAGES = "ocm_wsgi/protocol/websocket/client_messages.py"
MESSAGE_GATE = "ocm_wsgi/protocol/websocket/message_gate.py"
TUNNEL = "ocm_wsgi/relay/tunnel.py"

WEBSOCKET_MUTATIONS = (
    Mutation(
        "relay/test_websocket_turns.py::test_unknown_messages_are_refused",
        Edit(
            CLIENT_MESSAGES,
            "    if purpose is None:\n",
            '    if purpose is None:\n        purpose = "control"\n    if 0:\n',
        ),
    ),
    Mutation(
        "relay/test_websocket_turns.py::test_many_lanes",
        Edit("ocm_wsgi/relay/websocket_turns.py", "if session.open_turns >= MAX_OPEN_TURNS:", "if False:"),
    ),
    Mutation(
        "relay/test_websocket_turns.py::test_inject",
        Edit(CLIENT_MESSAGES, '"response.inject": "input"', '"response.inject": "control"'),
    ),
    Mutation(
        "relay/test_websocket_turns.py::test_steer_is_admitted",
        Edit(CLIENT_MESSAGES, '"response.steer": "steer"', '"response.steer": "control"'),
    ),
    Mutation(
        "protocol/websocket/test_open_turns.py::test_lanes_end_out_of_order",
        Edit("ocm_wsgi/protocol/websocket/open_turns.py", "steers and turn.lane == lane]", "steers]"),
    ),
    Mutation(
        "relay/test_websocket_turns.py::test_steer[None]",
        Edit("ocm_wsgi/relay/websocket_turns.py", "earlier is not None and earlier.slot.share() else", "False else"),
    ),
    Mutation(
        "protocol/websocket/test_message_gate.py::test_read_limits_decompression[True-beyond]",
        Edit(MESSAGE_GATE, "LARGEST_RATIO = 100", "LARGEST_RATIO = 10_000"),
    ),
    Mutation(
        "relay/test_tunnel_deadlines.py::test_unfinished_message",
        Edit(TUNNEL, "elif self._waits_for_rest and", "elif False and"),
    ),
    Mutation(
        "relay/test_tunnel_deadlines.py::test_too_much_held",
        Edit(TUNNEL, "self._held.hold(self._session.held_bytes + ", "self._held.hold("),
    ),
    Mutation(
        "relay/test_tunnel_deadlines.py::test_unsent_messages_count",
        Edit(TUNNEL, "self._session.held_bytes + len(self._upstream.unsent)", "self._session.held_bytes"),
    ),
    Mutation(
        "relay/test_websocket_memory.py::test_unfinished_messages_of_one_user",
        Edit("ocm_wsgi/relay/held_memory.py", "held <= self._user_limit and ", ""),
    ),
    Mutation(
        "relay/test_admission_queue.py::test_one_decision_of_each_user",
        Edit("ocm_wsgi/relay/admission_queue.py", "if queue is not None:", "if False:"),
    ),
    Mutation(
        "protocol/websocket/test_message_gate.py::test_read_stops_when_its_time_is_over",
        Edit(MESSAGE_GATE, "if clock() > deadline:", "if False:"),
    ),
)
