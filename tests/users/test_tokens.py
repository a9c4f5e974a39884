"""Bearer tokens and their digests."""

from __future__ import annotations

from ocm_wsgi.users.tokens import new_token, token_digest


def test_new_token() -> None:
    """Tokens are ours by their prefix, fit RFC 6750, hold 256 bits, and differ."""
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("sk-ocm-") and len(token) == 50 and token[7:].isalnum() for token in tokens)


def test_token_digest() -> None:
    """The digest is SHA-256 in hexadecimal, of any text."""
    assert token_digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert len(token_digest("\udcff")) == 64
