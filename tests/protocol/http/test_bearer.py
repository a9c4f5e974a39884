"""Extraction of the bearer token from a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ocm_wsgi.config.users import UserConfig
from ocm_wsgi.errors import AuthenticationFailed, BadRequest
from ocm_wsgi.protocol.http.bearer import bearer_token, refuse_api_key_fields


@pytest.mark.parametrize(
    "value", ["Bearer abc-DEF_1.2~3+4/5==", "bearer abc-DEF_1.2~3+4/5==", "BEARER  abc-DEF_1.2~3+4/5== "]
)
def test_bearer_token_is_found(value: str) -> None:
    """The scheme is case-insensitive; the token is returned unchanged."""
    assert bearer_token([("Accept", "x"), ("AUTHORIZATION", value)]) == "abc-DEF_1.2~3+4/5=="


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64))
def test_bearer_token_of_any_visible_ascii(token: str) -> None:
    """Every token that the configuration accepts is found, beyond the characters of RFC 6750."""
    UserConfig.model_validate({"name": "alice", "token": SecretStr(token)})
    assert bearer_token([("authorization", f"Bearer {token}")]) == token


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer a b")],
        [("authorization", "Bearer a\tb")],
        [("authorization", "Bearer \xe4")],
        [("authorization", "Bearer a\x7f")],
        [("authorization", "Basic YTpi")],
        [("authorization", "abc")],
        [("authorization", "Bearer a"), ("authorization", "Bearer a")],
    ],
)
def test_bearer_token_missing_or_malformed(fields: list[tuple[str, str]]) -> None:
    """A missing, repeated or malformed token, or another scheme, is not authenticated."""
    with pytest.raises(AuthenticationFailed):
        bearer_token(fields)


@pytest.mark.parametrize("name", ["X-Api-Key", "api-key"])
def test_api_key_fields_are_refused(name: str) -> None:
    """A token in the wrong field is refused with a message that names the right one."""
    with pytest.raises(BadRequest, match="Authorization: Bearer"):
        refuse_api_key_fields([(name, "x")])
