"""The defences of pools of accounts, in ``docs/reliability.md``, and the test that fails without each."""

from __future__ import annotations

from tests.faults.mutations import ADMISSION, Edit, Mutation

DISPATCH = "ocm_wsgi/pools/dispatch.py"
CHOOSING = "ocm_wsgi/quota/choosing.py"
POOL = "pools/test_pool.py"
SOCKETS = "pools/test_pool_websocket.py"

POOL_MUTATIONS = (
    Mutation(
        f"{POOL}::test_an_account_that_is_used_up_is_replaced[a-b]",
        Edit(
            DISPATCH,
            "refusal = account_refusal(upstream.status, upstream.fields, upstream.peek_error, now)",
            "refusal = None",
        ),
    ),
    Mutation(
        f"{POOL}::test_faults_of_an_account_are_hidden[failed-stream]",
        Edit(DISPATCH, "if refusal is None and is_turn and not is_bound:", "if False:"),
    ),
    Mutation(
        f"{POOL}::test_nothing_that_was_generated_is_repeated",
        Edit(DISPATCH, "(exchange.aborted or exchange.is_sent)", "exchange.aborted"),
    ),
    Mutation(
        f"{POOL}::test_what_an_account_stores_is_asked_of_it_alone",
        Edit(DISPATCH, "bound = self._bound(references)", "bound = None"),
    ),
    Mutation(
        f"{POOL}::test_a_turn_state_goes_to_its_account_only",
        Edit(DISPATCH, "self._state_owner is not None and self._state_owner != account.tag", "False"),
    ),
    Mutation(
        f"{POOL}::test_users_see_one_subscription",
        Edit(DISPATCH, "upstream.replace_fields(lambda fields: pool_fields(fields, figures))", "pass"),
    ),
    Mutation(
        f"{POOL}::test_a_conversation_stays_with_its_account",
        Edit("ocm_wsgi/pools/pool.py", "current = self.affinity.get(key)", "current = None"),
        (Edit("ocm_wsgi/pools/affinity.py", "if current is not None and current not in instead_of:", "if False:"),),
    ),
    Mutation(
        f"{POOL}::test_a_cap_keeps_an_account_in_reserve",
        Edit(CHOOSING, "week.used_percent < self.cap_weekly", "week.used_percent < 100"),
    ),
    Mutation(
        "pools/test_accounts.py::test_an_account_is_not_used_beyond_its_cap",
        Edit(ADMISSION, "self._require_cap(states, credential, now)", "pass"),
    ),
    Mutation(
        f"{SOCKETS}::test_the_turn_that_uses_an_account_up_is_finished",
        Edit("ocm_wsgi/pools/socket.py", "if not self._pools.is_usable(self._tag):", "if False:"),
    ),
    Mutation(
        f"{SOCKETS}::test_a_limit_within_a_websocket[None]",
        Edit("ocm_wsgi/pools/socket.py", "ReconnectNeeded(_MOVED) if is_another_usable else None", "None"),
    ),
    Mutation(
        f"{SOCKETS}::test_a_websocket_shows_the_windows_of_all",
        Edit("ocm_wsgi/views/websocket.py", "shown_limits=None if socket is None else socket.shown_limits,", ""),
    ),
    Mutation(
        f"{SOCKETS}::test_turns_in_progress_count",
        Edit("ocm_wsgi/pools/socket.py", "return self._pools.uses.in_flight.begin(self._tag)", "return lambda: None"),
    ),
)
