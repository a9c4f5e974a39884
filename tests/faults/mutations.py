"""The defence behind each promise in ``docs/reliability.md``, and the test that fails without it.

``python -m tests.faults.prove`` removes each defence in a copy of the tree and runs its test.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Edit(NamedTuple):
    """A replacement in a source file.

    :ivar path: relative to the root of the repository.
    :ivar found: the text to replace; occurs exactly once.
    :ivar put: its replacement.
    """

    path: str
    found: str
    put: str


@dataclass(frozen=True)
class Mutation:
    """The removal of a defence.

    :ivar test: the test that must fail; with parameters if only some of them show it.
    :ivar also: further edits, if a second defence would catch the fault.
    """

    test: str
    edit: Edit
    also: tuple[Edit, ...] = ()


NGINX = "deploy/nginx.conf"
GUNICORN = "ocm_wsgi/gunicorn_conf.py"
ARRIVALS = "ocm_wsgi/server/arrivals.py"
ACCOUNTING = "ocm_wsgi/accounting/turn_accounting.py"
ADMISSION = "ocm_wsgi/admission/admission.py"
CONNECTIONS = "ocm_wsgi/upstream/connections.py"
CREDENTIALS = "ocm_wsgi/credentials"
ENVIRON = "ocm_wsgi/gateway/environ.py"
DISCONNECTS = "ocm_wsgi/relay/disconnects.py"
RECORDER = "ocm_wsgi/accounting/recorder.py"
HOOKS = "ocm_wsgi/server/hooks.py"
WEBSOCKET_TURNS = "ocm_wsgi/relay/websocket_turns.py"
SPOOL = "ocm_wsgi/accounting/spool.py"
STREAM = "ocm_wsgi/relay/stream.py"
QUERIES = "ocm_wsgi/accounting/queries.py"
ENDPOINT_TABLE = "ocm_wsgi/protocol/endpoints/table.py"
TARGETS = "ocm_wsgi/protocol/http/targets.py"
TUNNEL = "ocm_wsgi/relay/tunnel.py"
UPSTREAM = "ocm_wsgi/upstream/client.py"
WITHHELD_END = "ocm_wsgi/protocol/responses/withheld_end.py"
WORKER = "ocm_wsgi/server/worker.py"

#: As nginx did before 1.29.7: a truncated response looks complete.
_HTTP_1_0_TO_SERVICE = Edit(NGINX, "proxy_http_version 1.1;", "proxy_http_version 1.0;")
_TWO_SERVERS = Edit("tests/clients/nginx.py", 'f"server {upstream};"', 'f"server {upstream}; server {upstream};"')
_NGINX_RETRIES = Edit(
    NGINX, "proxy_next_upstream off;", "proxy_next_upstream error timeout http_502 http_503 http_504 non_idempotent;"
)
_NGINX_IGNORES_DISCONNECTS = Edit(NGINX, "proxy_buffering off;", "proxy_buffering off; proxy_ignore_client_abort on;")
_NO_LOCKS = Edit(
    f"{CREDENTIALS}/refresh_process.py",
    "with credential_locks(job.credential_path, state_path=job.state_path, timeout_seconds=timeout_seconds):",
    "if True:",
)
_REFRESHED_AGAIN = Edit(
    f"{CREDENTIALS}/refresh_process.py",
    "        if document.fingerprint != self._job.fingerprint:",
    "        if False:",
)
_REFUSAL_NOT_STORED = Edit(
    f"{CREDENTIALS}/refusal_store.py", "            self._write(_REFUSAL.dump_json(refusal))", "            pass"
)
_END_SENT_BEFORE_ITS_RECORD = Edit(
    WITHHELD_END,
    "sendable, self._octets = self._octets + piece[:start], piece[start:]",
    'sendable, self._octets = self._octets + piece, b""',
)
_TRUNCATION_HIDDEN = Edit(
    STREAM,
    '        self._end = f"upstream cut it: {detail}"\n',
    '        self._end = ""\n        self._send(b"", LAST_CHUNK)\n        self._advance()\n        return\n',
)
_CUT_NOT_RECORDED = Edit(STREAM, "                self._turn.close_async()", "                pass")
_LAX_SERVER = Edit(
    GUNICORN,
    'http_parser = "python"',
    """http_parser = "python"
import gunicorn.http.message as message
from gunicorn.http.body import Body, ChunkedReader, LengthReader
def lax(request):
    fields = dict(reversed(request.headers))
    length = fields.get("CONTENT-LENGTH")
    if length is None and "chunked" in fields.get("TRANSFER-ENCODING", "").lower():
        request.body = Body(ChunkedReader(request, request.unreader))
    else:
        request.body = Body(LengthReader(request.unreader, int((length or "0").split(",")[0])))
message.Request.set_body_reader = lax""",
)
_STALE_CONNECTION_NOT_RETRIED = Edit(
    CONNECTIONS, "                raise StaleConnection(", "                raise ConnectionError("
)
_POOL_NOT_CHECKED = Edit(
    CONNECTIONS,
    "        conn = super()._get_conn(timeout)",
    "        import urllib3.connectionpool as pools\n\n        pools.is_connection_dropped = lambda conn: False\n"
    "        conn = super()._get_conn(timeout)",
)
_WRITTEN_TWICE = Edit(
    QUERIES,
    'return db.insert_for(dialect_name, db.turn).on_conflict_do_nothing(index_elements=["id"])',
    "return db.insert_for(dialect_name, db.turn)",
)
_NOT_RECORDED = Edit(
    "ocm_wsgi/accounting/ledger.py",
    "            while not self._recorders.get().submit(",
    "            while not (on_recorded, record) and (",
)
_FAILED_RECORDS_DROPPED = Edit(
    RECORDER,
    "            self._note_failure(exc)\n",
    '            self._settle(batch, "memory")\n            self._note_failure(exc)\n',
)
_FILE_READ_ONCE = Edit(
    f"{CREDENTIALS}/auth_file_watcher.py",
    "return entry.is_settled and entry.version == version_of(self._name)",
    "return seen.is_settled",
)
_DISCONNECT_IGNORED = Edit(DISCONNECTS, "                    watch.on_disconnect()", "                    pass")
_CLIENT_NOT_WATCHED = Edit(
    STREAM, "        if mask & DISCONNECTED:\n            self._leave(CLIENT_LEFT)\n            return\n", ""
)


def _setting(name: str) -> Edit:
    """Return an edit that adds a more permissive setting of gunicorn's."""
    return Edit(GUNICORN, 'http_parser = "python"', f'http_parser = "python"\n{name}')


PROCESSES = (
    Mutation("test_worker_killed_at_each_step[in-the-middle]", _HTTP_1_0_TO_SERVICE),
    Mutation("test_worker_killed_at_each_step[before-the-status]", _NGINX_RETRIES, (_TWO_SERVERS,)),
    Mutation("test_worker_killed_at_each_step[after-the-terminal-event]", _NOT_RECORDED),
    Mutation(
        "test_workers_killed_while_the_credential_is_refreshed[rotated]",
        Edit(
            f"{CREDENTIALS}/refresh_client.py",
            "    try:\n        process = subprocess.Popen(",
            "    from ocm_wsgi.credentials.refresh_process import refresh\n    return refresh(job)\n"
            "    try:\n        process = subprocess.Popen(",
        ),
    ),
    Mutation(
        "test_workers_killed_while_the_credential_is_refreshed[rotation]",
        Edit(
            f"{CREDENTIALS}/refresh_client.py",
            "start_new_session=True,",
            "start_new_session=True, preexec_fn=lambda: __import__('ctypes').CDLL(None).prctl(1, 9),",
        ),
    ),
    Mutation(
        "test_stopped_while_an_orphan_refreshes_the_credential",
        Edit(HOOKS, "    orphans.adopt()\n", ""),
    ),
)

STATE = (
    Mutation("test_database_locked_by_another_process[killed]", _END_SENT_BEFORE_ITS_RECORD),
    Mutation(
        "test_database_locked_by_another_process[killed]",
        Edit(RECORDER, "self._journals.require_own().append([", "raise OSError(["),
    ),
    Mutation(
        "test_database_locked_by_another_process[killed]",
        Edit(SPOOL, "        journals = []\n", "        return []\n        journals = []\n"),
    ),
    Mutation("test_database_locked_by_another_process[released]", _WRITTEN_TWICE),
    Mutation(
        "test_database_locked_in_mid_turn",
        Edit(RECORDER, '            self._settle(overdue, "spool")', "            pass"),
        (Edit(STREAM, "record_seconds: float = 2.0", "record_seconds: float = 3600.0"),),
    ),
    Mutation("test_disk_full", _FAILED_RECORDS_DROPPED),
    Mutation("test_disk_full", Edit(SPOOL, "            reserve(descriptor, self._reserve_bytes)", "            pass")),
    Mutation(
        "test_database_damaged",
        Edit(ADMISSION, "            if user.limits:\n                raise\n", ""),
    ),
    Mutation(
        "test_database_damaged",
        Edit(ADMISSION, "        if not (user.limits or has_reserve or user.max_concurrent):", "        if False:"),
        (
            Edit(ADMISSION, "            elif has_reserve:", "            else:"),
            Edit(ADMISSION, "            if user.limits:\n                raise\n", "            raise\n"),
        ),
    ),
)

CREDENTIAL = (
    Mutation(
        "test_credential_broken_in_mid_traffic[truncated]",
        Edit(
            f"{CREDENTIALS}/auth_file_watcher.py",
            "        if self._last_valid is None:\n            return error",
            "        if True:\n            return error",
        ),
    ),
    Mutation(
        "test_credential_broken_in_mid_traffic[unreadable]",
        Edit(
            f"{CREDENTIALS}/auth_file_watcher.py",
            "        if self._last_valid is None:\n            return error",
            "        if True:\n            return error",
        ),
    ),
    Mutation(
        "test_credential_broken_in_mid_traffic[deleted]",
        Edit(
            f"{CREDENTIALS}/auth_file_reader.py",
            '        raise FileGone("no such file", version) from None',
            '        raise FileUnreadable("no such file", version) from None',
        ),
    ),
    Mutation(
        "test_credential_broken_in_mid_traffic[deleted]",
        _FILE_READ_ONCE,
    ),
    Mutation(
        "test_credential_replaced_in_mid_traffic",
        _FILE_READ_ONCE,
    ),
    Mutation(
        "test_credential_replaced_in_mid_traffic",
        Edit(
            UPSTREAM,
            '(("chatgpt-account-id", credential.account_id))',
            '(("chatgpt-account-id", _account_fields.__dict__.setdefault("first", credential.account_id)))',
        ),
    ),
    Mutation(
        "test_credential_disk_full",
        Edit(
            f"{CREDENTIALS}/auth_file_writer.py",
            '            reserve(self._new.descriptor, status.st_size + _GROWTH_BYTES, filler=b" ")',
            "            pass",
        ),
    ),
    Mutation(
        "test_credential_disk_full",
        Edit(
            f"{CREDENTIALS}/refresh_process.py",
            "_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})",
            "_NO_SPACE = frozenset({0})",
        ),
    ),
    Mutation(
        "test_refresh_endpoint_down",
        Edit(f"{CREDENTIALS}/refresh_policy.py", "FIRST_BACKOFF_SECONDS = 5.0", "FIRST_BACKOFF_SECONDS = 0.0"),
    ),
    Mutation(
        "test_refresh_endpoint_down",
        Edit(
            f"{CREDENTIALS}/refresh_policy.py",
            "            if running is None:\n",
            "            if True:\n                running = None\n",
        ),
    ),
    Mutation(
        "test_refresh_endpoint_slow",
        Edit(f"{CREDENTIALS}/refresh_client.py", "timeout=job.timeouts.total_seconds", "timeout=0.001"),
    ),
    Mutation("test_refresh_token_already_used", _REFUSAL_NOT_STORED),
    Mutation("test_refresh_cut_off_after_rotation", _REFUSAL_NOT_STORED),
    Mutation("test_twenty_expiries_under_load", _NO_LOCKS),
    Mutation("test_twenty_expiries_under_load", _REFRESHED_AGAIN),
    Mutation(
        "test_one_file_shared_with_the_real_codex[service-first]",
        Edit(
            f"{CREDENTIALS}/refresh_process.py",
            "            replacement.commit(refreshed.encoded())",
            "            pass",
        ),
    ),
    Mutation("test_one_file_shared_with_the_real_codex[service-first]", _REFRESHED_AGAIN),
)

OPENAI = (
    Mutation(
        "test_upstream_without_a_response[closed]",
        Edit(CONNECTIONS, "            if self._responses:\n", "            if True:\n"),
    ),
    Mutation(
        "test_upstream_without_a_response[garbage]",
        Edit(
            UPSTREAM,
            "            if not _is_caused_by(exc, StaleConnection):\n                raise _translated(exc) from exc",
            "            if not _is_caused_by(exc, StaleConnection):\n                raise",
        ),
    ),
    Mutation(
        "test_upstream_closes_as_a_turn_is_sent[direct]", Edit(CONNECTIONS, "if self._responses:\n", "if True:\n")
    ),
    Mutation("test_upstream_cuts_off_after_the_head[closed]", _TRUNCATION_HIDDEN),
    *(
        Mutation(f"test_upstream_cuts_off_its_response[{cut}]", _TRUNCATION_HIDDEN)
        for cut in ("reset", "closed", "bad-chunk")
    ),
    Mutation("test_upstream_cuts_off_its_response[closed]", _CUT_NOT_RECORDED),
    Mutation("test_upstream_resets_forty_streams_at_once", _CUT_NOT_RECORDED),
    Mutation(
        "test_upstream_error_status[503]",
        Edit(
            UPSTREAM,
            "self._credentials.current()\n        response = self._send(request, credential)\n",
            "self._credentials.current()\n        response = self._send(request, credential)\n"
            "        if response.status >= 500:\n            response = self._send(request, credential)\n",
        ),
    ),
    Mutation("test_upstream_error_status[503]", _NGINX_RETRIES, (_TWO_SERVERS,)),
    Mutation(
        "test_upstream_error_status[429]",
        Edit(NGINX, "proxy_buffering off;", "proxy_buffering off; proxy_intercept_errors on;"),
    ),
    Mutation(
        "test_unusual_but_valid_response[early-hints]",
        Edit(
            CONNECTIONS,
            "            if not 100 <= status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:",
            "            if True:",
        ),
    ),
    Mutation(
        "test_unusual_but_valid_response[unsolicited-response]",
        # Data that arrives with the end of the body, and data that arrives after it.
        Edit(
            "ocm_wsgi/protocol/http/framing.py",
            "        self.has_excess = self.has_ended and at < len(data)\n",
            '        pieces.append(data[at:] if self.has_ended else b"")\n',
        ),
        (_POOL_NOT_CHECKED,),
    ),
    Mutation(
        "test_unusual_but_valid_response[without-length]",
        Edit(
            "ocm_wsgi/protocol/http/framing.py",
            "        self.has_ended = True\n        return True",
            "        return False",
        ),
    ),
    Mutation("test_unusual_but_valid_response[closes-afterwards]", _STALE_CONNECTION_NOT_RETRIED, (_POOL_NOT_CHECKED,)),
    Mutation(
        "test_upstream_falls_silent[head-direct]",
        Edit(DISCONNECTS, "                    watch.on_disconnect()", "                    pass"),
    ),
    Mutation("test_upstream_falls_silent[body-direct]", _CLIENT_NOT_WATCHED),
    Mutation("test_upstream_falls_silent[head-nginx]", _NGINX_IGNORES_DISCONNECTS),
    Mutation("test_upstream_falls_silent[body-nginx]", _NGINX_IGNORES_DISCONNECTS),
    Mutation("test_upstream_closes_idle_connections", _STALE_CONNECTION_NOT_RETRIED, (_POOL_NOT_CHECKED,)),
    Mutation("test_upstream_closes_as_a_turn_is_sent[direct]", _STALE_CONNECTION_NOT_RETRIED),
    Mutation("test_turns_on_one_connection_are_isolated", _TRUNCATION_HIDDEN),
)

CLIENTS = (
    *(
        Mutation(f"test_smuggled_request[{name}-direct]", _LAX_SERVER)
        for name in (
            "CL.TE",
            "TE.CL",
            "two-lengths",
            "length-list",
            "length-signed",
            "chunked-twice",
            "chunked-not-last",
            "chunked-misspelt",
        )
    ),
    Mutation("test_smuggled_request[obs-fold-direct]", _setting("permit_obsolete_folding = True")),
    Mutation("test_smuggled_request[length-hidden-by-space-direct]", _setting("strip_header_spaces = True")),
    Mutation(
        "test_smuggling_would_be_detected",
        Edit(
            "tests/faults/test_faults_clients.py",
            'HIDDEN = head(BOB, "X-Smuggled: 1", LENGTH)',
            'HIDDEN = head(BOB, "X-Other: 1", LENGTH)',
        ),
    ),
    Mutation(
        "test_absolute_form",
        Edit(
            TARGETS,
            "    path, mark, query = _origin_form(",
            '    if "://" in request_target:\n        return ApiTarget(request_target, "")\n'
            "    path, mark, query = _origin_form(",
        ),
        # The table of endpoints would refuse it too.
        also=(
            Edit(
                ENDPOINT_TABLE,
                "        methods = self._fixed.get(path) or self._methods(path)\n        if ",
                '        methods = self._fixed["models"]\n        if ',
            ),
        ),
    ),
    Mutation("test_invalid_request[version-9-direct]", _setting("permit_unconventional_http_version = True")),
    Mutation(
        "test_pipelined_requests[direct]",
        Edit(
            ARRIVALS,
            "return bytes(conn.parser.unreader.take_buffered())",
            'return b""',
        ),
    ),
    Mutation(
        "test_pipelined_requests[direct]",
        Edit(
            ENVIRON,
            "    _request.fields = list(fields)",
            "    _request.fields = _request.__dict__.get('fields') or list(fields)",
        ),
    ),
    Mutation(
        "test_half_requests[half-a-head-direct]",
        Edit(
            ARRIVALS,
            "        self._waiting.add(arrival)\n        arrival.start()",
            "        self._waiting.add(arrival)\n        on_arrived(received)",
        ),
    ),
    Mutation(
        "test_half_requests[nothing-direct]",
        Edit(
            ARRIVALS,
            "        self._waiting.add(arrival)\n        arrival.start()",
            "        self._waiting.add(arrival)\n        on_arrived(received)",
        ),
    ),
    Mutation(
        "test_half_requests[half-a-body-direct]",
        Edit(
            "ocm_wsgi/gateway/request_body.py",
            "        raise _truncated()\n    _store(content",
            "        pass\n    _store(content",
        ),
    ),
    Mutation("test_clients_that_disconnect[direct]", _CLIENT_NOT_WATCHED),
    Mutation("test_clients_that_disconnect[nginx]", _NGINX_IGNORES_DISCONNECTS),
    Mutation(
        "test_client_that_does_not_read[direct]",
        Edit(
            STREAM,
            "        if self._client.unsent:\n            self._pause()\n            self._client.wait()\n        elif",
            "        if",
        ),
    ),
    Mutation(
        "test_long_header[direct]",
        Edit(GUNICORN, "limit_request_field_size = 65536", "limit_request_field_size = 8190"),
    ),
    Mutation(
        "test_long_header[nginx]",
        Edit(NGINX, "large_client_header_buffers 4 32k;", "large_client_header_buffers 4 8k;"),
    ),
    Mutation(
        "test_endless_header[one-of-256-KiB-direct]",
        Edit(GUNICORN, "limit_request_field_size = 65536", "limit_request_field_size = 2**20"),
        (Edit("ocm_wsgi/relay/request_arrival.py", "MAX_HEAD_BYTES = 128 * 1024", "MAX_HEAD_BYTES = 2**20"),),
    ),
    Mutation(
        "test_endless_header[five-thousand-direct]",
        Edit(GUNICORN, "limit_request_fields = 64", "limit_request_fields = 32768"),
    ),
    Mutation(
        "test_thousands_of_invalid_tokens",
        Edit("ocm_wsgi/views/proxy.py", "    user = authenticate(service, fields)\n", "    user = ANYONE\n"),
    ),
    Mutation(
        "test_users_are_isolated_under_load",
        Edit(
            ENVIRON,
            "    _request.fields = list(fields)",
            "    _request.fields = _request.__dict__.get('fields') or list(fields)",
        ),
    ),
)

THREADS = (
    Mutation(
        "test_faults_threads.py::test_upstream_cuts_off_its_response[closed]",
        Edit(UPSTREAM, "            raise UpstreamCut(", "            return\n            raise UpstreamCut("),
    ),
    Mutation(
        "test_faults_threads.py::test_database_locked_by_another_process[killed]",
        Edit(
            ACCOUNTING,
            "        for piece in pieces:\n            if sendable := self.feed(piece):",
            "        for piece in pieces:\n            if sendable := (self.feed(piece), piece)[1]:",
        ),
    ),
    Mutation("test_faults_threads.py::test_clients_that_disconnect[direct]", _DISCONNECT_IGNORED),
    Mutation("test_faults_threads.py::test_upstream_falls_silent[body-direct]", _DISCONNECT_IGNORED),
)

_CUT_SOCKET_NOT_RECORDED = Edit(
    WEBSOCKET_TURNS,
    "        self._accounting.record_async(turn, end.outcome, recorded)",
    '        end.outcome.status == "cut" or self._accounting.record_async(turn, end.outcome, recorded)',
)
_OVERSIZED_MESSAGE_ACCEPTED = Edit(
    "ocm_wsgi/protocol/websocket/message_gate.py",
    "        elif len(self._octets) + _FRAGMENT_BYTES * len(self._payloads) >",
    "        elif False and 0 >",
)
WEBSOCKETS = (
    Mutation("test_socket_whose_worker_is_killed[1-deflate]", _NOT_RECORDED),
    Mutation("test_socket_cut_by_upstream[closed-direct]", _CUT_SOCKET_NOT_RECORDED),
    Mutation("test_socket_cut_by_upstream[close-frame-nginx]", _CUT_SOCKET_NOT_RECORDED),
    Mutation("test_socket_with_garbage_from_upstream[masked]", _CUT_SOCKET_NOT_RECORDED),
    Mutation("test_sockets_that_disconnect[direct]", _CUT_SOCKET_NOT_RECORDED),
    Mutation(
        "test_sockets_that_disconnect[direct]",
        Edit(TUNNEL, '        elif data == b"" or mask & DISCONNECTED:\n', "        elif False:\n"),
    ),
    Mutation(
        "test_socket_that_does_not_read[direct]",
        Edit(
            TUNNEL,
            "self._reads_upstream = self._end is None and self._recording is None and not self._client.unsent",
            "self._reads_upstream = self._end is None and self._recording is None",
        ),
        (Edit(TUNNEL, "                self._client.unsent or self._recording", "                self._recording"),),
    ),
    Mutation("test_socket_that_breaks_the_protocol[too-many-fragments-direct]", _OVERSIZED_MESSAGE_ACCEPTED),
    Mutation("test_socket_that_breaks_the_protocol[too-large-direct]", _OVERSIZED_MESSAGE_ACCEPTED),
    Mutation(
        "test_socket_that_breaks_the_protocol[unmasked-direct]",
        Edit(
            "ocm_wsgi/protocol/websocket/frames.py",
            "        if (second >= _MASK_BIT) is not self._masked:",
            "        if False:",
        ),
    ),
    Mutation(
        "test_socket_turn_ends_while_the_database_is_locked[None]",
        Edit(
            WEBSOCKET_TURNS,
            "        self._accounting.record_async(turn, end.outcome, recorded)",
            '        self._accounting.record_async(turn, end.outcome, lambda place: None)\n        recorded("memory")',
        ),
    ),
    Mutation("test_socket_while_the_disk_is_full", _FAILED_RECORDS_DROPPED),
    Mutation("test_socket_whose_credential_is_replaced", _FILE_READ_ONCE),
    Mutation(
        "test_socket_of_a_removed_user",
        Edit(WEBSOCKET_TURNS, "user = self._authenticate()", "user = User(self._user)"),
    ),
)

CLOCK = (
    Mutation(
        "test_clock_jumps_under_traffic[hours-ahead]",
        Edit(
            "ocm_wsgi/relay/loop.py",
            "import time\n",
            "import time as clocks\n\n\nclass time:\n    monotonic = staticmethod(lambda: clocks.time())\n\n\n",
        ),
    ),
    Mutation(
        "test_clock_jumps_under_traffic[days-behind]",
        Edit(
            ACCOUNTING,
            "duration_ms=_milliseconds(time.monotonic() - request.started)",
            "duration_ms=_milliseconds(time.time() - request.started_at)",
        ),
    ),
    Mutation(
        "test_clock_far_ahead_of_the_issuer",
        Edit(
            f"{CREDENTIALS}/credential.py",
            "        return max(self.expires_at, ",
            "        return min(self.expires_at, ",
        ),
    ),
    Mutation("test_clock_jumps_while_the_credential_is_refreshed", _REFRESHED_AGAIN),
    Mutation(
        "test_clock_jumps_across_a_limit",
        Edit(
            "ocm_wsgi/quota/limits.py",
            "    start = origin + math.floor((now - origin) / length) * length\n",
            "    start = origin\n",
        ),
    ),
    Mutation(
        "test_clock_jumps_across_a_session",
        Edit("ocm_wsgi/users/sessions.py", "max_age=lifetime_seconds", "max_age=None"),
    ),
    Mutation("test_clock_jumps_while_records_wait", _WRITTEN_TWICE),
    Mutation(
        "test_clock_jumps_between_reports_of_upstreams_windows",
        Edit("ocm_wsgi/accounting/window_history.py", "0 < before.at - at <= LATE_SECONDS", "0 < before.at - at"),
    ),
)

MUTATIONS = PROCESSES + STATE + CREDENTIAL + OPENAI + CLIENTS + THREADS + WEBSOCKETS + CLOCK
