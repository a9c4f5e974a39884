"""The code of an error, in every shape that OpenAI's backends use."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.responses.error_codes import code_in_fields, error_code
from ocm_wsgi.protocol.responses.observer import observer_for
from ocm_wsgi.protocol.responses.turn import Outcome


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


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([("X-Error-Json", "eyJlcnJvciI6eyJjb2RlIjoidG9rZW5fZXhwaXJlZCJ9fQ==")], "token_expired"),
        ([("x-error-json", "!"), ("X-OpenAI-Authorization-Error", " invalid_api_key ")], "invalid_api_key"),
        ([("x-error-json", "Ww=="), ("x-openai-authorization-error", "No, sorry.")], None),
        ([("WWW-Authenticate", 'Bearer realm="x", error="invalid_token", error_description="x"')], "invalid_token"),
        ([("www-authenticate", "Bearer error=expired_token")], "expired_token"),
        ([("www-authenticate", 'Bearer realm="error"')], None),
        ([], None),
    ],
)
def test_code_in_fields(fields: list[tuple[str, str]], code: str | None) -> None:
    """The code is found in each field that may name it."""
    assert code_in_fields(fields) == code


@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (b'{"error":{"code":"of-the-body"}}', "", "of-the-body"),
        (b"<html>", "", "of-the-fields"),
        (b"{}", "", "of-the-fields"),
        (b"", "gzip", "of-the-fields"),
        (b"x", "br", "of-the-fields"),
    ],
)
def test_code_of_an_error_without_one_in_its_body(body: bytes, encoding: str, code: str) -> None:
    """What the fields name counts only where the body names nothing."""
    observer = observer_for(status=403, media_type="text/html", content_encoding=encoding, error_code="of-the-fields")
    observer.feed(body)
    assert observer.finish() == Outcome("error", error_code=code)
