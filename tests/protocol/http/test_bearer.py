"""Extraction of the bearer token from a request."""

from __future__ import annotations

import pytest

from ocm_wsgi.errors import AuthenticationFailed, BadRequest
from ocm_wsgi.protocol.http.bearer import bearer_token, refuse_api_key_fields


@pytest.mark.parametrize(
    "value", ["Bearer abc-DEF_1.2~3+4/5==", "bearer abc-DEF_1.2~3+4/5==", "BEARER  abc-DEF_1.2~3+4/5== "]
)
def test_bearer_token_is_found(value: str) -> None:
    """The scheme is case-insensitive; the token is returned unchanged."""
    assert bearer_token([("Accept", "x"), ("AUTHORIZATION", value)]) == "abc-DEF_1.2~3+4/5=="


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer a b")],
        [("authorization", "Bearer a,b")],
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
