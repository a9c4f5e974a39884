"""Defences in ``docs/security.md`` that concern usage which upstream does not report; see ``security_mutations``."""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

ESTIMATES_LIVE = "accounting/test_estimates_live.py"
READ_ON = "relay/test_read_on.py"
TURN_COSTS = "ocm_wsgi/accounting/turn_costs.py"
TURN_ACCOUNTING = "ocm_wsgi/accounting/turn_accounting.py"

ESTIMATE_MUTATIONS = (
    *(
        Mutation(f"{ESTIMATES_LIVE}::{test}", Edit(TURN_COSTS, "else estimate(outcome)", "else None"))
        for test in (
            "test_client_leaves_before_the_terminal_event",
            "test_upstream_cuts_the_stream",
            "test_estimates_count_towards_limits",
            "test_completed_without_usage[null-usage]",
        )
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_client_leaves_a_websocket[None]",
        Edit(
            "ocm_wsgi/protocol/websocket/session.py",
            "        if not self._is_compressed or self._observer.failure is not None:\n",
            "        if 0:\n",
        ),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_client_leaves_a_websocket[deflate]",
        Edit(
            "ocm_wsgi/protocol/websocket/message_observer.py",
            "            if self._on_text is not None:\n",
            "            if 0:\n",
        ),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_chat_without_usage",
        Edit(
            "ocm_wsgi/protocol/responses/sse_observer.py",
            'OutputMeter(is_chat=family in ("chat", "completions"))',
            "OutputMeter()",
        ),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_continued_conversation",
        Edit(TURN_ACCOUNTING, "if not facts.continues:", "if 1:"),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_no_unreadable_coding_is_asked_for",
        Edit("ocm_wsgi/views/proxy.py", "if access.endpoint.has_answer_read:", "if 0:"),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_completed_without_usage[unreadable-coding]",
        Edit("ocm_wsgi/protocol/responses/observer.py", "return self._octets if self._is_text else 0", "return 0"),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_client_leaves_before_the_response[gpt-5.5]",
        Edit(
            "ocm_wsgi/views/proxy.py",
            "if turn is not None and sent.exchange.aborted and sent.exchange.is_sent:",
            "if 0:",
        ),
    ),
    Mutation(
        f"{ESTIMATES_LIVE}::test_client_leaves_before_the_response[an-invented-name]",
        Edit("ocm_wsgi/accounting/abandoned_turns.py", "if pricing.rates_for(", "if 0 and pricing.rates_for("),
    ),
    Mutation(f"{READ_ON}::test_true_count", Edit("ocm_wsgi/relay/stream.py", "if is_complete or", "if 1 or")),
    Mutation(
        f"{READ_ON}::test_true_count_over_a_websocket[None]",
        Edit("ocm_wsgi/relay/websocket_rest.py", "turns.reads_on and", "0 and"),
    ),
    Mutation(
        "relay/test_tunnel_deadlines.py::test_reading_on",
        Edit("ocm_wsgi/relay/websocket_rest.py", "if now > self._until:", "if 0:"),
    ),
    Mutation(
        f"{READ_ON}::test_bounds",
        Edit("ocm_wsgi/relay/read_on.py", " or self._by_user[user] >= self._most_per_user", ""),
    ),
)
