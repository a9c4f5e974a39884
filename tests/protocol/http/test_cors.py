"""CORS: which web pages may use the API, and what browsers are answered."""

from __future__ import annotations

import pytest

from ocm_wsgi.errors import ForeignOrigin
from ocm_wsgi.protocol.http.cors import is_preflight, preflight_fields, response_fields
from ocm_wsgi.protocol.http.fields import Fields

APP = "https://app.example.org"
PREFLIGHT: Fields = [("ORIGIN", APP), ("Access-Control-Request-Method", "POST")]


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("OPTIONS", PREFLIGHT, True),
        ("OPTIONS", PREFLIGHT[:1], False),
        ("OPTIONS", PREFLIGHT[1:], False),
        ("POST", PREFLIGHT, False),
    ],
)
def test_is_preflight(method: str, fields: Fields, expected: bool) -> None:
    """A preflight is an OPTIONS with both fields; any other OPTIONS is for the table to refuse."""
    assert is_preflight(method, fields) is expected


@pytest.mark.parametrize("allow_origins", [(APP,), ("http://x", APP), ("*",)])
def test_preflight_of_an_allowed_origin(allow_origins: tuple[str, ...]) -> None:
    """The methods of the API and the fields that the page asks for are allowed, the token among them."""
    asked = [*PREFLIGHT, ("Access-Control-Request-Headers", "content-type,X-Stainless-Lang, a b,<x>,")]
    fields = dict(preflight_fields(asked, allow_origins))
    assert "POST" in fields["Access-Control-Allow-Methods"]
    assert fields["Access-Control-Allow-Headers"] == "authorization, content-type, x-stainless-lang"
    assert 0 < int(fields["Access-Control-Max-Age"]) <= 7200


@pytest.mark.parametrize("allow_origins", [(), ("https://other.example",), ("https://app.example.org:8443",)])
@pytest.mark.parametrize("origin", [APP, "null", "", "https://app.example.org.evil.example", "http://app.example.org"])
def test_preflight_of_another_origin(origin: str, allow_origins: tuple[str, ...]) -> None:
    """By default no origin is allowed, and the sentence says who can change that."""
    with pytest.raises(ForeignOrigin, match=r"Its owner can allow .* in allow_origins") as raised:
        preflight_fields([("origin", origin), PREFLIGHT[1]], allow_origins)
    assert raised.value.status == 403


@pytest.mark.parametrize(
    ("origin", "allow_origins", "allowed", "varies"),
    [
        (APP, (APP,), APP, True),
        ("HTTPS://App.example.org", (APP,), "HTTPS://App.example.org", True),
        (APP, ("*",), "*", False),
        ("null", ("*",), "*", False),
        ("null", (APP,), None, True),
        (None, (APP,), None, True),
        ("https://evil.example", (APP,), None, True),
        (f"{APP}, https://evil.example", (APP,), None, True),
    ],
)
def test_response_fields(origin: str | None, allow_origins: tuple[str, ...], allowed: str | None, varies: bool) -> None:
    """A page of an allowed origin can read everything, another one nothing; caches keep them apart."""
    fields = response_fields(origin, allow_origins)
    assert dict(fields).get("Access-Control-Allow-Origin") == allowed
    assert dict(fields).get("Access-Control-Expose-Headers") == (None if allowed is None else "*")
    assert (("Vary", "Origin") in fields) is varies
    assert not any(name == "Access-Control-Allow-Credentials" for name, _ in fields)
