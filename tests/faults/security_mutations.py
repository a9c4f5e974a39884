"""Defences in ``docs/security.md``, and the test that fails without each of them.

Tests are named as in that page: ``file::test``, relative to ``tests/``. Each one has a row there.
"""

from __future__ import annotations

from tests.faults.basic_mutations import BASIC_MUTATIONS
from tests.faults.estimate_mutations import ESTIMATE_MUTATIONS
from tests.faults.mutations import Edit, Mutation
from tests.faults.ownership_mutations import OWNERSHIP_MUTATIONS
from tests.faults.surroundings_mutations import SURROUNDINGS_MUTATIONS
from tests.faults.websocket_mutations import WEBSOCKET_MUTATIONS

ARRIVALS = "ocm_wsgi/server/arrivals.py"
BLUEPRINT = "ocm_wsgi/views/dashboard/blueprint.py"
FORM_ARRIVAL = "ocm_wsgi/protocol/http/form_arrival.py"
REQUEST_ARRIVAL = "ocm_wsgi/relay/request_arrival.py"
TLS_HANDSHAKE = "ocm_wsgi/server/tls_handshake.py"
REQUEST_ADAPTERS = "ocm_wsgi/server/request_adapters.py"

OPEN_MODE = "ocm_wsgi/views/open_mode.py"

SESSIONS = "ocm_wsgi/users/sessions.py"

STRANGERS = (
    Mutation(
        "views/dashboard/test_dashboard.py::test_stolen_cookie_after_sign_out",
        Edit(SESSIONS, "if db.get_meta(connection, _ended_key(content)) is not None:", "if False:"),
    ),
    Mutation(
        "users/test_sign_ins.py::test_failures_of_many_addresses",
        Edit("ocm_wsgi/users/sign_ins.py", "if known_user and (user is None or user.name == known_user):", "if False:"),
    ),
    Mutation(
        "users/test_sign_ins.py::test_failures_of_known_browsers",
        Edit(
            "ocm_wsgi/users/sign_ins.py",
            "if _failures(connection, subject, now)[1] < MAX_FAILURES_PER_ADDRESS:",
            "if True:",
        ),
    ),
    Mutation(
        "users/test_sessions.py::test_secret_that_is_too_short",
        Edit(SESSIONS, "return secret if len(secret) >= _SECRET_BYTES else None", "return secret"),
    ),
    Mutation(
        "users/test_sessions.py::test_secret_is_synced",
        Edit(
            SESSIONS,
            "new.write(secrets.token_bytes(_SECRET_BYTES))",
            "new.write(secrets.token_bytes(_SECRET_BYTES), sync=False)",
        ),
    ),
    *(
        Mutation(f"views/test_open_mode.py::test_web_pages_are_refused[{page}]", Edit(OPEN_MODE, call, "pass"))
        for page, call in (
            (
                "rebound",
                "require_own_host(fields, listens_on=listens_on, allow_origins=config.allow_origins)",
            ),
            ("without-cors", "require_own_origin(fields, allow_origins=config.allow_origins)"),
        )
    ),
    *(
        Mutation(
            f"views/dashboard/test_forms.py::test_form_that_no_browser_sends[{form}]",
            Edit(BLUEPRINT, "read_form().get(", "request.form.get("),
        )
        for form in ("announces-a-disk-full", "too-many-fields", "multipart", "expects-100-continue", "chunked")
    ),
    Mutation(
        "views/dashboard/test_forms.py::test_half_forms_delay_no_others[half]",
        Edit(FORM_ARRIVAL, "    return length if length <= MAX_FORM_BYTES else 0", "    return 0"),
    ),
    Mutation(
        "relay/test_deadlines.py::test_request_that_does_not_arrive",
        Edit(REQUEST_ARRIVAL, "self._until = min(self._until, self._loop.now + FORM_SECONDS)", "pass"),
    ),
    *(
        Mutation(
            f"relay/test_live.py::test_half_bodies_of_users_delay_no_others[{framing}]",
            Edit("ocm_wsgi/server/body_arrival.py", "        raise BodyAwaited(body)", "        pass"),
        )
        for framing in ("length", "chunked", "megabytes")
    ),
    Mutation(
        "gateway/test_request_body.py::test_read_body_without_room",
        Edit(
            "ocm_wsgi/gateway/request_body.py",
            "        raise NoRoomForBody(message, detail=str(exc)) from exc",
            "        raise",
        ),
    ),
    Mutation(
        "relay/test_live.py::test_unread_responses_delay_no_others",
        Edit(REQUEST_ADAPTERS, "            if size is not None and size <= BUFFERED_BYTES:", "            if False:"),
    ),
    Mutation(
        "server/test_body_arrival.py::test_dribbled_body",
        Edit(
            "ocm_wsgi/server/body_arrival.py",
            "        elif self._body.size >= self._block_ends:\n",
            "        else:\n",
        ),
    ),
    *(
        Mutation(
            f"protocol/http/test_content_coding.py::test_{bomb}[{coding}]",
            Edit(
                "ocm_wsgi/protocol/http/content_coding.py",
                "            if self._decoded > limit:",
                f"            if {put}:",
            ),
        )
        for bomb, put in (
            ("bomb_is_given_up", "False"),
            ("large_bomb_is_given_up", "self._decoded > LARGEST_RATIO * self._received"),
            ("one_call_is_bounded", "self._decoded > _largest_size(self._received)"),
        )
        for coding in ("65536-zstd" if bomb == "bomb_is_given_up" else "zstd",)
    ),
    Mutation(
        "relay/test_deadlines.py::test_endless_head",
        Edit(REQUEST_ARRIVAL, "            self._on_too_large()\n", '            self._on_arrived(b"")\n'),
    ),
    *(
        Mutation(
            f"relay/test_live.py::test_unfinished_handshakes_delay_no_others[{sent}]",
            Edit(TLS_HANDSHAKE, "self._connection.do_handshake()", "self._connection.do_handshake(block=True)"),
        )
        for sent in ("half-a-hello", "dribbled-hello", "hello")
    ),
    Mutation(
        "relay/test_live.py::test_unfinished_handshakes_delay_no_others[half-a-head]",
        Edit(ARRIVALS, '            self._await_request(conn, b"")', "            self._arrived(conn)"),
    ),
    Mutation(
        "relay/test_live.py::test_no_field_makes_a_stream_occupy_a_thread",
        Edit(REQUEST_ADAPTERS, "not isinstance(response, HTTP2Response)", 'environ.get("HTTP_VERSION") != "2"'),
    ),
)


REQUEST = "ocm_wsgi/protocol/responses/request.py"
STRICT_JSON = "ocm_wsgi/protocol/responses/strict_json.py"
FORMS = "ocm_wsgi/protocol/http/forms.py"

MODELS = (
    Mutation(
        "admission/test_models_live.py::test_unknown_models_are_refused[twice]",
        Edit(STRICT_JSON, "catch_duplicate_keys=True", "catch_duplicate_keys=False"),
    ),
    Mutation(
        "admission/test_models_live.py::test_unknown_models_are_refused[twice-after-blanks]",
        Edit(STRICT_JSON, "catch_duplicate_keys=True", "catch_duplicate_keys=False"),
    ),
    Mutation(
        "admission/test_models_live.py::test_unknown_models_are_refused[media-type]",
        Edit(REQUEST, "    raise _NotReadable\n", "    return _JsonReader()\n"),
    ),
    Mutation(
        "protocol/http/test_forms.py::test_ambiguous_multipart[line-feed-delimiter-65536]",
        Edit(FORMS, "if self._buffer[at : at + 2] != _CRLF or not", "if not"),
    ),
)

TABLE = "ocm_wsgi/protocol/endpoints/table.py"
FIELDS = "ocm_wsgi/protocol/http/fields.py"

ENDPOINTS = (
    Mutation(
        "upstream/test_client.py::test_a_replacement_of_another_kind_is_not_used",
        Edit("ocm_wsgi/upstream/client.py", "if replacement.mode is not credential.mode:", "if False:"),
    ),
    Mutation(
        "admission/test_metering.py::test_unmetered_turns_need_limits_in_requests",
        Edit("ocm_wsgi/admission/metering.py", "endpoint.is_metered or", "True or"),
    ),
    Mutation(
        "views/test_endpoints.py::test_unmetered_turns_are_refused_to_users_with_limits",
        Edit("ocm_wsgi/views/proxy.py", "    require_metered(user, endpoint)\n", ""),
    ),
    Mutation(
        "views/test_proxy_refusals.py::test_methods_that_are_not_in_the_table_are_refused",
        Edit(TABLE, "endpoint = methods.get(method)", "endpoint = next(iter(methods.values()), None)"),
    ),
    Mutation(
        "protocol/endpoints/test_walk.py::test_the_table_is_the_reference",
        Edit(TABLE, "            found = node.get(segment)", "            found = node.get(segment.lower())"),
    ),
    Mutation(
        "protocol/endpoints/test_table.py::test_a_path_that_can_be_read_in_two_ways_is_refused[responses/COMPACT]",
        Edit(TABLE, "name.lower() not in self._words", "name not in self._words"),
    ),
    Mutation(
        "protocol/endpoints/test_table.py::test_what_makes_keys_is_never_relayed[table0-chatkit/sessions]",
        Edit(TABLE, "        if makes_keys(path):\n", "        if False:\n"),
    ),
    Mutation(
        "protocol/endpoints/test_extra.py::test_an_extra_endpoint_makes_no_keys",
        Edit(TABLE, "self._words = set(_NO_NAMES)", "self._words = set[str]()"),
    ),
    Mutation(
        "protocol/endpoints/test_table.py::test_only_admins_delete_models",
        Edit(TABLE, "if endpoint.for_admins and not is_admin:", "if False:"),
    ),
    Mutation(
        "views/test_endpoints.py::test_the_platform_without_what_makes_keys",
        Edit("ocm_wsgi/views/proxy.py", "target.path, is_admin=is_admin", "target.path, is_admin=True"),
    ),
    Mutation(
        "protocol/http/test_targets.py::test_api_target_refuses_ambiguous_targets[/v1/..%23]",
        Edit("ocm_wsgi/protocol/http/targets.py", r"\x20-\x22\x24\x26-\x3e", r"\x20-\x24\x26-\x3e"),
    ),
    Mutation(
        "protocol/http/test_fields.py::test_request_field_is_dropped[OpenAI-Organization]",
        Edit(FIELDS, '        "openai-organization",\n', ""),
    ),
    Mutation(
        "protocol/http/test_fields.py::test_request_field_is_dropped[X-HTTP-Method-Override]",
        Edit(FIELDS, "CLIENT_ADDRESS_FIELDS | OVERRIDE_FIELDS |", "CLIENT_ADDRESS_FIELDS |"),
    ),
    Mutation(
        "protocol/websocket/test_handshake.py::test_upgrade_request_fields_drop_subprotocols_that_name_an_account",
        Edit(
            "ocm_wsgi/protocol/websocket/handshake.py",
            "_without_account_subprotocols(client_fields),",
            "client_fields,",
        ),
    ),
    Mutation(
        "protocol/http/test_fields.py::test_connection_options_do_not_change_the_content[content-encoding]",
        Edit(FIELDS, " if not name.startswith(_CONTENT_FIELD_PREFIXES)]", "]"),
    ),
    Mutation(
        "views/test_cors.py::test_no_origin_is_allowed_by_default",
        Edit(
            FIELDS,
            '_NOT_TO_CLIENT_PREFIXES = ("x-accel-", "access-control-")',
            '_NOT_TO_CLIENT_PREFIXES = ("x-accel-",)',
        ),
    ),
    Mutation(
        "views/test_cors.py::test_pages_of_an_allowed_origin",
        Edit("ocm_wsgi/protocol/http/cors.py", "ANY_ORIGIN in allow_origins or", "True or"),
    ),
)

ADMISSION = "ocm_wsgi/admission/admission.py"
OPEN_TURN = "ocm_wsgi/accounting/turn_accounting.py"

LIMITS = (
    *(
        Mutation(
            f"admission/test_limits_at_once.py::{test}",
            Edit(ADMISSION, "[*others, *self._in_background(user, credential)], credential)", "(), credential)"),
        )
        for test in (
            "test_fifty_against_one_request",
            "test_twenty_against_tokens",
            "test_turns_on_websockets_count_at_once",
        )
    ),
    Mutation(
        "admission/test_reservations.py::test_turns_are_registered_one_after_the_other",
        Edit("ocm_wsgi/admission/reservations.py", "fcntl.flock(descriptor, fcntl.LOCK_EX)", "pass"),
    ),
    Mutation(
        "accounting/test_open_turn.py::test_release_follows_asynchronous_record",
        Edit(
            OPEN_TURN,
            """        def recorded(durability: Durability) -> None:
            self.request.release()
""",
            """        self.request.release()

        def recorded(durability: Durability) -> None:
""",
        ),
    ),
    Mutation(
        "admission/test_measurability.py::test_turns_are_refused",
        Edit(ADMISSION, "is_api_key=self._is_api_key(credential)", "is_api_key=False"),
    ),
    Mutation(
        "admission/test_reservations.py::test_large_requests_reserve_more",
        Edit(
            "ocm_wsgi/admission/expectations.py",
            "with_input(typical(self._last_turns(user), model), input_tokens)",
            "typical(self._last_turns(user), model)",
        ),
    ),
    Mutation(
        "admission/test_reservations.py::test_turns_in_the_background_count",
        Edit(ADMISSION, "[*others, *self._in_background(user, credential)]", "others"),
    ),
    Mutation(
        "admission/test_reservations.py::test_percent_without_a_rate",
        Edit(ADMISSION, "percent_per_usd is None and within", "False"),
    ),
)

MEASURES = (
    Mutation(
        "protocol/responses/test_observer.py::test_json_observer_reads_the_ends_of_a_body_of_many_values",
        Edit("ocm_wsgi/protocol/responses/bounded_buffer.py", 'self.octets.count(b",") <= _MOST_COMMAS', "True"),
    ),
    Mutation(
        "protocol/responses/test_observer.py::test_the_usage_in_the_ends_is_never_that_of_a_schema",
        Edit("ocm_wsgi/protocol/responses/bounded_buffer.py", "max(found, key=_weight)", "found[0]"),
    ),
    Mutation(
        "accounting/test_media_live.py::test_images_without_reported_usage_are_estimated",
        Edit("ocm_wsgi/accounting/media_estimates.py", "    return family in _COMPLETE\n", "    return False\n"),
    ),
    Mutation(
        "accounting/test_media_live.py::test_what_hosted_tools_used_is_recorded",
        Edit(
            "ocm_wsgi/protocol/responses/outcome.py", 'tool_usage_of(body) if family == "responses" else None', "None"
        ),
    ),
    Mutation(
        "admission/test_measured_turns.py::test_a_turn_that_no_limit_measures_is_refused",
        Edit("ocm_wsgi/admission/admission.py", "require_measured(user, model, family, now, self._prices)", "pass"),
    ),
)

DECISION_QUEUE = "ocm_wsgi/relay/decision_queue.py"

WAITING = (
    Mutation(
        "admission/test_waiting.py::test_others_are_served",
        Edit("ocm_wsgi/admission/waiting.py", "if is_bounded and waiting >= threads * USER_PART and", "if False and"),
    ),
    Mutation(
        "relay/test_decision_queue.py::test_users_take_turns",
        Edit(DECISION_QUEUE, "self._waiting.setdefault(user, deque())", 'self._waiting.setdefault("", deque())'),
    ),
    Mutation(
        "relay/test_decision_queue.py::test_one_decision_at_a_time",
        Edit(DECISION_QUEUE, "len(busy) < DECISIONS", "True"),
    ),
    Mutation(
        "relay/test_decision_queue.py::test_a_decision_that_takes_long_makes_room",
        Edit(DECISION_QUEUE, "if each.busy_until > now]", "if each.busy_until]"),
    ),
    Mutation(
        "relay/test_decision_queue.py::test_waiting_for_upstream_makes_room",
        Edit("ocm_wsgi/gateway/waiting.py", "_notify(True)", "pass"),
    ),
    Mutation(
        "relay/test_loop.py::test_many_deferred_callbacks_do_not_delay_events",
        Edit("ocm_wsgi/relay/loop.py", "min(len(self._deferred), DEFERRED_PER_PASS)", "len(self._deferred)"),
    ),
    Mutation(
        "server/test_senders.py::test_user_of",
        Edit("ocm_wsgi/server/senders.py", "_key(found[1]), STRANGER)", "_key(found[1]), str(found[1]))"),
    ),
    Mutation(
        "server/test_request_threads.py::test_users_take_turns_while_streams_continue",
        Edit(
            "ocm_wsgi/server/request_threads.py",
            "self._decisions.submit(user, self.pool",
            'self._decisions.submit("", self.pool',
        ),
    ),
)

NAMES = (
    Mutation(
        "accounting/test_queries.py::test_names_of_refused_turns_leave_no_sums",
        Edit("ocm_wsgi/accounting/queries.py", 'record["model"] if is_accepted else "",', 'record["model"],'),
    ),
)

SOURCE = "ocm_wsgi/credentials/source.py"

UNAUTHORIZED = (
    Mutation(
        "views/test_proxy_credential.py::test_an_endpoint_that_always_answers_401[no-code]",
        Edit(SOURCE, "if error_code not in TOKEN_CODES and not self._is_due(snapshot):", "if False:"),
    ),
    Mutation(
        "relay/test_websocket_unauthorized.py::test_unauthorized[None-token]",
        Edit("ocm_wsgi/protocol/websocket/session.py", "if status == _UNAUTHORIZED:", "if False:"),
    ),
    Mutation(
        "protocol/websocket/test_unauthorized.py::test_error_in_any_split",
        Edit("ocm_wsgi/protocol/websocket/session.py", "if not message.is_whole:", "if False:"),
    ),
    Mutation(
        "credentials/test_unauthorized.py::test_replacement_is_not_repeated",
        Edit(
            SOURCE,
            "return ReplacedStore(self._path, state_path=self._state_path).is_held(snapshot.document.fingerprint)",
            "return False",
        ),
    ),
)

BACKUPS = (
    Mutation(
        "cli/test_backup.py::test_backup_and_restore",
        Edit(
            "ocm_wsgi/transfer/backup_file.py",
            "os.fchmod(self._descriptor, 0o600)",
            "os.fchmod(self._descriptor, 0o644)",
        ),
    ),
    Mutation(
        "cli/test_backup.py::test_credential_without_passphrase",
        Edit("ocm_wsgi/transfer/sealing.py", "if len(passphrase) < MIN_PASSPHRASE_LENGTH:", "if False:"),
    ),
    Mutation(
        "cli/test_backup.py::test_credential",
        Edit(
            "ocm_wsgi/transfer/sealing.py",
            "_fernet(passphrase, salt).encrypt(json.dumps(document).encode())",
            "json.dumps(document).encode()",
        ),
    ),
)

SECURITY_MUTATIONS = (
    *BACKUPS,
    *BASIC_MUTATIONS,
    *NAMES,
    *UNAUTHORIZED,
    *WAITING,
    *ENDPOINTS,
    *LIMITS,
    *STRANGERS,
    *WEBSOCKET_MUTATIONS,
    *OWNERSHIP_MUTATIONS,
    *MODELS,
    *MEASURES,
    *ESTIMATE_MUTATIONS,
    *SURROUNDINGS_MUTATIONS,
)
