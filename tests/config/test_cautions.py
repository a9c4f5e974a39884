"""Cautions about valid settings."""

from __future__ import annotations

import json
import secrets
import string
from pathlib import Path
from typing import Any

import pytest
import trustme

from ocm_wsgi.config import load
from ocm_wsgi.config.cautions import is_clear_text, is_weak_token

STRONG = "sk-ocm-9vQ2mXc7RzLpT4yKbWfHsN8dGjE3aUo6"
WEAK = "sk-ocm-alice-0123456789abcdef"
ALICE = {"name": "alice", "token": STRONG}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The keys of TLS for a certificate."""
    folder = tmp_path_factory.mktemp("certificate")
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "chain.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    return {"certificate_path": str(folder / "chain.pem"), "key_path": str(folder / "key.pem")}


def cautions(folder: Path, document: dict[str, Any]) -> tuple[str, ...]:
    """Return the cautions about a configuration."""
    (folder / "ocm.json").write_text(json.dumps(document))
    return load({"HOME": str(folder)}, folder).warnings


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({}, [], id="defaults"),
        pytest.param({"users": [ALICE], "metrics_token": STRONG + "x"}, [], id="strong"),
        pytest.param({"listen": "0.0.0.0"}, ["0.0.0.0:8080 with no users", "0.0.0.0:8080 without TLS"], id="open"),
        pytest.param({"listen": "::", "users": [ALICE]}, [":::8080 without TLS"], id="open-with-users"),
        pytest.param({"listen": "127.0.0.9"}, [], id="loopback"),
        pytest.param({"tls": {"key_path": "k"}}, ["enabled is not true"], id="tls-forgotten"),
        pytest.param({"users": [ALICE, {"name": "bob", "token": "secret"}]}, ["of users: bob;"], id="short"),
        pytest.param({"users": [{"name": "alice", "token": WEAK}]}, ["of users: alice;"], id="regular"),
        pytest.param({"metrics_token": "metrics"}, ["metrics_token could be guessed"], id="metrics"),
        pytest.param({"api_base_url": "http://api.example"}, ["api_base_url is http://api.example:"], id="clear"),
        pytest.param({"auth_base_url": "http://10.0.0.1"}, ["auth_base_url is http://10.0.0.1:"], id="clear-private"),
        pytest.param({"chatgpt_base_url": "http://localhost:1/backend-api/codex"}, [], id="clear-loopback"),
    ],
)
def test_cautions(tmp_path: Path, document: dict[str, Any], expected: list[str]) -> None:
    """Valid settings that are probably unintended cause one caution each, which shows no token, and others none."""
    found = cautions(tmp_path, document)
    assert [words in caution for words, caution in zip(expected, found, strict=True)] == [True] * len(expected)
    assert not any("sk-ocm" in caution or "secret" in caution for caution in found)


def test_no_caution_with_tls(tmp_path: Path, certificate: dict[str, str]) -> None:
    """With TLS, listening for other machines is fine."""
    document = {"listen": "0.0.0.0", "users": [ALICE], "tls": {"enabled": True, **certificate}}
    assert cautions(tmp_path, document) == ()


@pytest.mark.parametrize(
    "token",
    ["", "x", "hunter2", "a" * 64, "abcabc" * 10, "password12345678", "0123456789abcdef", "sk-" + "z" * 5, "bob-" * 9],
)
def test_weak_tokens(token: str) -> None:
    """Short and regular tokens are weak; a prefix and the user's name add nothing."""
    assert is_weak_token(token, "bob")
    assert is_weak_token(f"sk-ocm-{token}", "bob")


@pytest.mark.parametrize("alphabet", ["0123456789abcdef", string.ascii_letters + string.digits, string.digits])
def test_random_tokens_are_not_weak(alphabet: str) -> None:
    """Tokens of 32 random characters are not weak, whatever their alphabet."""
    tokens = ["".join(secrets.choice(alphabet) for _ in range(32)) for _ in range(200)]
    assert not any(is_weak_token(token, "bob") for token in tokens)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://ocm.example", False),
        ("http://ocm.example", True),
        ("http://[::1]:1", False),
        ("http://[2001:db8::1]", True),
        ("http://127.0.0.2", False),
        ("http://127.0.0.1.example", True),
        ("http://localhost.example", True),
    ],
)
def test_is_clear_text(url: str, expected: bool) -> None:
    """HTTP without TLS to another machine is clear text."""
    assert is_clear_text(url) == expected
