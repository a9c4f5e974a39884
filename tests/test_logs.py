"""No line of any log shows what looks like a secret."""

from __future__ import annotations

import logging

import pytest

from ocm_wsgi.logs import RedactingFormatter, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /v1/x?key=sk-ocm-abcdefgh1234 done", "GET /v1/x?key=[secret] done"),
        ("token eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln!", "token [secret]!"),
        ("Authorization: Bearer abcdefghij", "Authorization: Bearer [secret]"),
        ("via http://user:pass@proxy:3128", "via http://[secret]@proxy:3128"),
        ("rt_abcdefghijklmnop1234", "[secret]"),
        ("task-force sk- and risk-based-analysis", "task-force sk- and risk-based-analysis"),
        ("gpt-5.4 https://chatgpt.com/backend-api", "gpt-5.4 https://chatgpt.com/backend-api"),
    ],
)
def test_redacted(text: str, shown: str) -> None:
    """Tokens of all kinds are masked, ordinary words are not."""
    assert redacted(text) == shown


def test_redacting_formatter_covers_arguments_and_tracebacks() -> None:
    """A secret is masked wherever in the line it stands."""
    try:
        raise ValueError("sk-proj-0123456789")
    except ValueError as exc:
        record = logging.LogRecord(
            "n", logging.ERROR, __file__, 1, "got %s", ("Bearer abcdefghijk",), (type(exc), exc, None)
        )
    line = RedactingFormatter("%(message)s").format(record)
    assert "abcdefghijk" not in line
    assert "0123456789" not in line
