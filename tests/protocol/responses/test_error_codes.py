"""The code of an error, in every shape that OpenAI's backends use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.error_codes import error_code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"error": {"message": "No.", "type": "invalid_request_error", "code": "token_expired"}}, "token_expired"),
        ({"error": {"message": "No.", "type": "usage_limit_reached", "code": None}}, "usage_limit_reached"),
        ({"error": "invalid_grant", "error_description": "No."}, "invalid_grant"),
        ({"error": "Something went wrong."}, "Something went wrong."),
        ({"type": "error", "code": "server_error", "message": "No."}, "server_error"),
        ({"detail": {"code": "deactivated_workspace"}}, "deactivated_workspace"),
        ({"detail": {"type": "forbidden", "message": "No."}}, "forbidden"),
        ({"detail": [{"type": "missing", "loc": ["body", "model"], "msg": "Field required"}]}, "missing"),
        ({"detail": "token_invalidated"}, "token_invalidated"),
        ({"detail": "Unauthorized"}, None),
        ({"detail": "Stream must be set to true"}, None),
        ({"detail": "Not Found", "code": "not_found"}, "not_found"),
        ({"errors": [{"code": 10000, "type": "blocked"}, {"code": "other"}]}, "blocked"),
        ({"error": {"code": 7, "type": ["x"]}, "code": "x"}, "x"),
        ({"error": {"code": "a\nb"}}, None),
        ({"error": {"code": "x" * 257}}, None),
        ({"error": {"error": {"code": "too-deep"}}}, None),
        ({"errors": [], "detail": [], "error": []}, None),
        ({}, None),
        ([{"code": "x"}], None),
        ("x", None),
        (None, None),
    ],
)
def test_error_code(body: object, code: str | None) -> None:
    """The code is found wherever it is; a sentence is none, except in the place of OAuth's codes."""
    assert error_code(body) == code


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "detail", "errors", "code", "type"]), inner, max_size=4)
    ),
)


@given(body=_JSON)
def test_error_code_of_any_shape(body: object) -> None:
    """Any JSON has a short, printable code, or none."""
    code = error_code(body)
    assert code is None or (0 < len(code) <= 256 and code.isprintable())
