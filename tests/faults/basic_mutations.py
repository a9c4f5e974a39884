"""The defences in ``docs/security.md`` that are as old as the service, and the test that fails without each of them.

Listed apart from ``security_mutations`` only because of their number.
"""

from __future__ import annotations

from tests.faults.mutations import (
    CONNECTIONS,
    CREDENTIALS,
    GUNICORN,
    NGINX,
    STREAM,
    TARGETS,
    WITHHELD_END,
    Edit,
    Mutation,
)

AUTH = "ocm_wsgi/views/auth.py"
BEARER = "ocm_wsgi/protocol/http/bearer.py"
BLUEPRINT = "ocm_wsgi/views/dashboard/blueprint.py"
CONTEXTS = "ocm_wsgi/tls/contexts.py"
DASHBOARD = "views/dashboard/test_dashboard.py"
DIRECTORY = "ocm_wsgi/users/directory.py"
FIELDS = "ocm_wsgi/protocol/http/fields.py"
LOGS = "ocm_wsgi/telemetry/logs.py"
REQUEST_BODY = "ocm_wsgi/gateway/request_body.py"

STRANGERS = (
    Mutation(
        "protocol/http/test_bearer.py::test_bearer_token_missing_or_malformed",
        Edit(BEARER, "    if len(values) > 1 or not credentials:", "    if not credentials:"),
    ),
    Mutation("users/test_tokens.py::test_new_token", Edit("ocm_wsgi/users/tokens.py", "= 43", "= 20")),
    Mutation(
        "users/test_tokens.py::test_token_digest",
        Edit("ocm_wsgi/users/tokens.py", "hashlib.sha256(", "hashlib.sha1("),
    ),
    Mutation("users/test_directory.py::test_authenticate_refuses", Edit(DIRECTORY, "if user.disabled:", "if False:")),
    Mutation(
        "users/test_directory.py::test_authenticate_after_changes",
        Edit(DIRECTORY, "(stored.version == version or version is None)", "True"),
    ),
    Mutation(
        "views/test_status.py::test_strangers_see_nothing",
        Edit(AUTH, "    user = authenticate(service, fields)\n", "    user = ANYONE\n"),
    ),
    Mutation(
        "reporting/test_prometheus.py::test_metrics_access",
        Edit(AUTH, "    if not sees_all(requesting_user(service)):", "    if False:"),
    ),
    Mutation(
        f"{DASHBOARD}::test_throttle",
        Edit(
            "ocm_wsgi/users/sign_ins.py",
            "if total >= MAX_FAILURES or of_address >= MAX_FAILURES_PER_ADDRESS:",
            "if False:",
        ),
    ),
    Mutation(
        f"{DASHBOARD}::test_forged_form",
        Edit(BLUEPRINT, '    if request.method == "POST" and not', "    if False and not"),
    ),
    Mutation(
        f"{DASHBOARD}::test_pages_show_only_the_viewer",
        Edit(
            "ocm_wsgi/views/dashboard/turns.py",
            "    return None if sees_all(viewer()) else viewer().name",
            "    return None",
        ),
    ),
    Mutation(
        f"{DASHBOARD}::test_revocation[rotate]",
        Edit(
            "ocm_wsgi/users/sessions.py",
            "lambda digest: hmac.compare_digest(_fingerprint(secret, digest), expected)",
            "lambda digest: True",
        ),
    ),
    Mutation(
        "relay/test_live.py::test_idle_clients_delay_no_others[half-a-head]",
        Edit(
            "ocm_wsgi/server/arrivals.py",
            "        self._waiting.add(arrival)\n        arrival.start()",
            "        self._waiting.add(arrival)\n        on_arrived(received)",
        ),
    ),
    Mutation(
        "gateway/test_request_body.py::test_read_body_refuses_oversized_bodies",
        Edit(REQUEST_BODY, "        if length > limit:", "        if False:"),
    ),
    Mutation(
        "views/test_proxy_bodies.py::test_a_large_upload_passes_in_bounded_memory",
        Edit(REQUEST_BODY, "MEMORY_LIMIT_BYTES = 1024 * 1024", "MEMORY_LIMIT_BYTES = 2**30"),
    ),
    Mutation(
        "clients/test_nginx.py::test_too_many_requests",
        Edit(NGINX, "limit_req zone=ocm_requests burst=200 nodelay;", ""),
    ),
    Mutation(
        "clients/test_nginx.py::test_metrics_blocked", Edit(NGINX, "location = /metrics {", "location = /other {")
    ),
    Mutation(
        "server/test_gunicorn.py::test_fields_arrive_as_sent",
        Edit(GUNICORN, 'CONVERSATION_ID,THREAD_ID"', 'CONVERSATION_ID,THREAD_ID,SCRIPT_NAME,PATH_INFO"'),
    ),
    Mutation(
        "telemetry/test_logs.py::test_client_text_cannot_forge_a_line",
        Edit(LOGS, '    return _printable(text).replace(" ", "\\\\x20") or "-"', '    return text or "-"'),
    ),
)

USERS = (
    Mutation(
        "protocol/http/test_targets.py::test_api_target_never_leaves_the_base_path",
        Edit(TARGETS, "    if any(_is_dot_segment(segment) for segment in (*inner, last)):", "    if False:"),
    ),
    Mutation(
        "config/test_problems.py::test_load_names_place_and_remedy",
        Edit("ocm_wsgi/config/types.py", '    if urlsplit(value).path.endswith("/backend-api"):', "    if False:"),
    ),
    Mutation(
        "protocol/http/test_fields.py::test_the_client_cannot_choose_the_account",
        Edit(FIELDS, "HOP_BY_HOP_FIELDS | ACCOUNT_FIELDS | CLIENT", "HOP_BY_HOP_FIELDS | CLIENT"),
    ),
    Mutation(
        "views/test_proxy_refusals.py::test_a_truncated_upload_never_reaches_upstream",
        Edit(
            REQUEST_BODY,
            "    if announced is not None and length < announced:\n        raise _truncated()\n",
            "",
        ),
    ),
    Mutation(
        "admission/test_admission.py::test_admit_models",
        Edit(
            "ocm_wsgi/admission/admission.py",
            "    if not user.models or (model is not None and is_allowed(model, user.models)):",
            "    if True:",
        ),
    ),
    Mutation(
        "faults/test_faults_state.py::test_database_locked_by_another_process[killed]",
        Edit(
            WITHHELD_END,
            "sendable, self._octets = self._octets + piece[:start], piece[start:]",
            'sendable, self._octets = self._octets + piece, b""',
        ),
    ),
    Mutation(
        "views/test_status.py::test_users_never_see_each_other",
        Edit("ocm_wsgi/reporting/usage_query.py", "    if not sees_all(requester):", "    if False:"),
    ),
    Mutation(
        "upstream/test_client.py::test_interim_responses_do_not_shift_responses",
        Edit(
            CONNECTIONS,
            "            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:",
            "            if True:",
        ),
    ),
)

UPSTREAM = (
    Mutation(
        "upstream/test_client.py::test_an_unknown_authority_is_refused",
        Edit(
            CONTEXTS,
            "    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN\n",
            "    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN\n"
            "    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE\n",
        ),
    ),
    Mutation(
        "tls/test_session_cache.py::test_a_session_is_for_one_name",
        Edit(
            "ocm_wsgi/tls/session_cache.py",
            "session or self._sessions.get(server_hostname)",
            "session or next(iter(self._sessions.values()), None)",
        ),
    ),
    Mutation(
        "clients/test_nginx.py::test_internal_redirect_refused",
        Edit(FIELDS, '("x-accel-", "access-control-")', '("access-control-",)'),
        (Edit(NGINX, "proxy_ignore_headers X-Accel-Redirect", "proxy_ignore_headers"),),
    ),
    Mutation(
        "protocol/http/test_fields.py::test_response_field_is_dropped",
        Edit(FIELDS, 'HOP_BY_HOP_FIELDS | {"set-cookie", "set-cookie2"}', "HOP_BY_HOP_FIELDS"),
    ),
    Mutation(
        "protocol/http/test_fields.py::test_response_value_cannot_break_out",
        Edit(FIELDS, " and _FIELD_VALUE.fullmatch(value)", ""),
    ),
    Mutation(
        "views/test_proxy_bodies.py::test_a_truncated_response_looks_truncated",
        Edit(
            STREAM,
            '        self._end = f"upstream cut it: {detail}"\n',
            '        self._end = ""\n        self._send(b"", LAST_CHUNK)\n        self._advance()\n        return\n',
        ),
    ),
)

CREDENTIAL = (
    Mutation(
        "telemetry/test_logs.py::test_redacted",
        Edit(LOGS, "            return _SECRETS.sub(_MASK, text)", "            return text"),
    ),
    Mutation(
        "login/test_command.py::test_file_and_folder_are_private",
        Edit(f"{CREDENTIALS}/sign_in.py", "folder.mkdir(mode=0o700)", "folder.mkdir()"),
    ),
    Mutation(
        "credentials/test_refresh_policy.py::test_the_file_afterwards",
        Edit(
            f"{CREDENTIALS}/auth_file_writer.py",
            "            os.fchmod(self._new.descriptor, stat.S_IMODE(status.st_mode))",
            "            pass",
        ),
    ),
    Mutation(
        "credentials/test_refresh_policy.py::test_full_disk_is_detected_before_the_refresh",
        Edit(
            f"{CREDENTIALS}/auth_file_writer.py",
            '            reserve(self._new.descriptor, status.st_size + _GROWTH_BYTES, filler=b" ")',
            "            pass",
        ),
    ),
    Mutation(
        "credentials/test_refresh_process.py::test_forty_threads_in_four_processes_refresh_once",
        Edit(
            f"{CREDENTIALS}/refresh_process.py",
            "with credential_locks(job.credential_path, state_path=job.state_path, timeout_seconds=timeout_seconds):",
            "if True:",
        ),
    ),
)

BASIC_MUTATIONS = STRANGERS + USERS + UPSTREAM + CREDENTIAL
