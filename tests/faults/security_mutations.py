"""Defences in ``docs/security.md``, and the test that fails without each of them.

Tests are named as in that page: ``file::test``, relative to ``tests/``. Each one has a row there.
"""

from __future__ import annotations

from tests.faults.mutations import Edit, Mutation

REQUEST_ADAPTERS = "ocm_wsgi/server/request_adapters.py"

OPEN_MODE = "ocm_wsgi/views/open_mode.py"

STRANGERS = (
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
    Mutation(
        "relay/test_live.py::test_no_field_makes_a_stream_occupy_a_thread",
        Edit(REQUEST_ADAPTERS, "not isinstance(response, HTTP2Response)", 'environ.get("HTTP_VERSION") != "2"'),
    ),
)

STATE = (
    Mutation(
        "accounting/test_retention.py::test_retention_of_events",
        Edit("ocm_wsgi/accounting/queries.py", "db.event.delete().where(table.id.in_(oldest))", "oldest"),
    ),
    Mutation(
        "reporting/test_spreadsheet.py::test_a_formula_becomes_text",
        Edit("ocm_wsgi/reporting/spreadsheet.py", "[_cell(value) for value in row]", "row"),
    ),
    Mutation(
        "storage/test_files.py::test_make_private_folder",
        Edit("ocm_wsgi/storage/files.py", "make_private_folder(folder.parent)", "folder.parent.mkdir(parents=True)"),
    ),
)

DEAD_ADDRESSES = (
    Mutation(
        "upstream/test_dead_address.py::test_requests_and_handshakes[https-request]",
        Edit("ocm_wsgi/upstream/connections.py", "_HTTPSConnection(HappyEyeballsMixin, ", "_HTTPSConnection("),
    ),
    Mutation(
        "upstream/test_dead_address.py::test_refresh[https]",
        Edit("ocm_wsgi/oauth/http_client.py", "_HTTPSConnection(HappyEyeballsMixin, ", "_HTTPSConnection("),
    ),
    Mutation(
        "checks/test_dead_addresses.py::test_dead_addresses[dead1]",
        Edit("ocm_wsgi/checks/dead_addresses.py", "error is not None", "False"),
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

SECURITY_MUTATIONS = (
    *STRANGERS,
    *MODELS,
    *STATE,
    *DEAD_ADDRESSES,
)
