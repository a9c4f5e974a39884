"""Parsing and updating the content of ``auth.json``."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.credentials import Mode
from ocm_wsgi.credentials.auth_file import Document, MalformedDocument, decode, format_time, parse_time
from ocm_wsgi.credentials.jwt_claims import claims_of, expires_at
from ocm_wsgi.errors import CredentialRejected
from ocm_wsgi.oauth.refresh import CLIENT_ID, ISSUER, Provenance, TokenEndpoint, TokenGrant, token_endpoint


def jwt(**claims: object) -> str:
    """Return a JWT with these claims and an invalid signature."""
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.c2ln"


ACCOUNT = {"chatgpt_account_id": "acct-claim", "chatgpt_plan_type": "team", "chatgpt_account_is_fedramp": True}
ID_TOKEN = jwt(**{"https://api.openai.com/auth": ACCOUNT})
TOKENS = {"id_token": ID_TOKEN, "access_token": jwt(exp=2_000_000_000), "refresh_token": "rt", "account_id": "acct"}
REFRESHED = "2026-01-02T03:04:05.123456789Z"
REFRESHED_AT = 1767323045
SIGNED_IN = {"auth_mode": "chatgpt", "OPENAI_API_KEY": None, "tokens": TOKENS, "last_refresh": REFRESHED}


def test_credential_of_a_sign_in() -> None:
    """A ChatGPT sign-in yields its tokens, account, plan and times."""
    credential = Document(SIGNED_IN).credential()
    assert credential.mode is Mode.CHATGPT
    assert credential.access_token == TOKENS["access_token"]
    assert (credential.account_id, credential.plan_type, credential.is_fedramp) == ("acct", "team", True)
    assert credential.expires_at == 2_000_000_000
    assert credential.last_refresh == pytest.approx(1767323045.123456789)


@pytest.mark.parametrize(
    ("claims", "effective_expiry"),
    [
        pytest.param({"exp": REFRESHED_AT + 3600, "iat": REFRESHED_AT}, REFRESHED_AT + 3600, id="clocks-agree"),
        pytest.param({"exp": REFRESHED_AT - 400, "iat": REFRESHED_AT - 4000}, REFRESHED_AT + 3600, id="ours-is-ahead"),
        pytest.param(
            {"exp": REFRESHED_AT + 7200, "iat": REFRESHED_AT + 3600}, REFRESHED_AT + 7200, id="ours-is-behind"
        ),
        pytest.param({"exp": REFRESHED_AT + 3600}, REFRESHED_AT + 3600, id="without-its-time-of-issue"),
        pytest.param({"iat": REFRESHED_AT}, None, id="without-an-end"),
    ],
)
def test_effective_expiry_of_an_access_token(claims: dict[str, Any], effective_expiry: float | None) -> None:
    """By our clock a token lasts for its full lifetime after it was obtained, and at least until its expiry."""
    tokens = {**TOKENS, "access_token": jwt(**claims)}
    credential = Document({**SIGNED_IN, "tokens": tokens}).credential()
    assert credential.effective_expiry == (None if effective_expiry is None else pytest.approx(effective_expiry, abs=1))


def test_account_id_falls_back_to_the_id_token() -> None:
    """If the file names no account, the one in the id token is used."""
    tokens = {**TOKENS, "account_id": None}
    assert Document({**SIGNED_IN, "tokens": tokens}).credential().account_id == "acct-claim"


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        pytest.param({**SIGNED_IN, "OPENAI_API_KEY": "sk-1"}, Mode.CHATGPT, id="mode-before-key"),
        pytest.param({**SIGNED_IN, "OPENAI_API_KEY": "sk-1", "auth_mode": "apikey"}, Mode.API_KEY, id="key-and-tokens"),
        pytest.param({**SIGNED_IN, "OPENAI_API_KEY": "sk-1", "auth_mode": None}, Mode.API_KEY, id="key-inferred"),
        pytest.param({**SIGNED_IN, "auth_mode": None}, Mode.CHATGPT, id="chatgpt-inferred"),
        pytest.param({"OPENAI_API_KEY": " sk-1\n"}, Mode.API_KEY, id="key-alone"),
    ],
)
def test_mode(content: dict[str, Any], mode: Mode) -> None:
    """``auth_mode`` takes precedence over the API key; without it, Codex's order applies."""
    credential = Document(content).credential()
    assert credential.mode is mode
    assert credential.access_token == ("sk-1" if mode is Mode.API_KEY else TOKENS["access_token"])


@pytest.mark.parametrize(
    "content",
    [
        *(
            pytest.param({"auth_mode": mode, "OPENAI_API_KEY": "sk-1", "tokens": TOKENS}, id=str(mode))
            for mode in (
                "chatgptAuthTokens",
                "headers",
                "agentIdentity",
                "personalAccessToken",
                "bedrockApiKey",
                "x",
                7,
            )
        ),
        pytest.param({"personal_access_token": "pat", "OPENAI_API_KEY": "sk-1"}, id="inferred-personal-access-token"),
        pytest.param({"bedrock_api_key": "b", "OPENAI_API_KEY": "sk-1"}, id="inferred-bedrock"),
        pytest.param({"auth_mode": "apikey", "OPENAI_API_KEY": None}, id="no-key"),
        pytest.param({"auth_mode": "apikey", "OPENAI_API_KEY": "sk\r\nX: y"}, id="key-with-line-break"),
        pytest.param({}, id="empty"),
        pytest.param({**SIGNED_IN, "tokens": None}, id="no-tokens"),
        pytest.param({**SIGNED_IN, "tokens": []}, id="tokens-not-an-object"),
        pytest.param({**SIGNED_IN, "tokens": {**TOKENS, "access_token": ""}}, id="no-access-token"),
        pytest.param({**SIGNED_IN, "tokens": {**TOKENS, "access_token": "a\nb"}}, id="access-token-with-line-break"),
        pytest.param({**SIGNED_IN, "last_refresh": None}, id="never-refreshed"),
        pytest.param({**SIGNED_IN, "last_refresh": "yesterday"}, id="last-refresh-not-a-time"),
    ],
)
def test_unusable_content_names_the_fix(content: dict[str, Any]) -> None:
    """Unusable content is rejected with one message that names the fix and quotes nothing."""
    with pytest.raises(CredentialRejected) as caught:
        Document(content).credential()
    assert "codex login" in caught.value.message
    assert 'cli_auth_credentials_store = "file"' in caught.value.message
    shown = f"{caught.value} {caught.value.detail}".replace("ocm login", "")
    assert not any(secret in shown for secret in ("sk", "pat", "rt ", "eyJ"))


@pytest.mark.parametrize("content", [b"", b"  \n", b'{"tokens": {', b"\xff\xfe", b"[]", b"null", b"[" * 100_000])
def test_decode_malformed(content: bytes) -> None:
    """Anything but a JSON object is malformed."""
    with pytest.raises(MalformedDocument):
        decode(content)


def test_refreshed_keeps_unknown_fields() -> None:
    """A refresh changes the new tokens and ``last_refresh``, and keeps everything else in its order."""
    before: dict[str, Any] = {
        **SIGNED_IN,
        "tokens": {**TOKENS, "oauth_provenance": {"issuer": "i", "new": [1]}},
        "agent_identity": {"ü": "\ud800"},
    }
    after = decode(Document(before).refreshed(TokenGrant(access_token="a2", refresh_token="r2"), now_ns=1).encoded())
    assert after.content == {
        **before,
        "tokens": {**before["tokens"], "access_token": "a2", "refresh_token": "r2"},
        "last_refresh": "1970-01-01T00:00:00.000000001Z",
    }
    assert list(after.content) == list(before)


def test_no_secret_in_repr() -> None:
    """The ``repr`` of documents and credentials shows neither tokens nor accounts."""
    document = Document({**SIGNED_IN, "OPENAI_API_KEY": "sk-1"})
    grant = TokenGrant("secret-1", "secret-2", "secret-3")
    shown = f"{document} {document.credential()} {grant} {document.fingerprint}"
    assert not any(secret in shown for secret in (*TOKENS.values(), "sk-1", "acct", "secret"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01Z", 1.0),
        ("1970-01-01t00:00:01.5z", 1.5),
        ("1970-01-01 01:00:00+01:00", 0.0),
        ("1970-01-01T00:00:00", None),
        ("1970-13-01T00:00:00Z", None),
        (12, None),
    ],
)
def test_parse_time(text: object, seconds: float | None) -> None:
    """RFC 3339 timestamps are parsed with any fraction and offset; anything else returns ``None``."""
    assert parse_time(text) == seconds


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_format_time_is_read_back(now_ns: int) -> None:
    """A formatted time is parsed as the same time."""
    assert parse_time(format_time(now_ns)) == pytest.approx(now_ns / 1e9, abs=1e-5)


@pytest.mark.parametrize("claims", [{}, {"exp": "soon"}, {"exp": True}, {"exp": 10**400}, {"exp": None}])
def test_expires_at_unreadable(claims: dict[str, object]) -> None:
    """An ``exp`` that is not a number is ignored."""
    assert expires_at(jwt(**claims)) is None


@given(st.text() | st.builds(".".join, st.lists(st.text(), min_size=3, max_size=3)))
def test_claims_of_anything(token: str) -> None:
    """Parsing claims fails for no text."""
    assert claims_of(token) == {} or "." in token


PROVENANCE = Provenance("https://issuer.example/", "client-of-the-file")


@pytest.mark.parametrize(
    ("provenance", "options", "endpoint"),
    [
        pytest.param(Provenance(), {}, TokenEndpoint(f"{ISSUER}/oauth/token", CLIENT_ID), id="default"),
        pytest.param(
            PROVENANCE, {}, TokenEndpoint("https://issuer.example/oauth/token", "client-of-the-file"), id="provenance"
        ),
        pytest.param(
            PROVENANCE,
            {"auth_base_url": "http://127.0.0.1:1/"},
            TokenEndpoint("http://127.0.0.1:1/oauth/token", "client-of-the-file"),
            id="configured-before-provenance",
        ),
        pytest.param(
            PROVENANCE,
            {"token_url": "https://o.example/t", "auth_base_url": "https://a.example"},
            TokenEndpoint("https://o.example/t", "client-of-the-file"),
            id="override-before-all",
        ),
        pytest.param(Provenance(), {"client_id": "c"}, TokenEndpoint(f"{ISSUER}/oauth/token", "c"), id="client-id"),
        pytest.param(
            Provenance("http://localhost:9"), {}, TokenEndpoint("http://localhost:9/oauth/token", CLIENT_ID), id="local"
        ),
    ],
)
def test_token_endpoint(provenance: Provenance, options: dict[str, str], endpoint: TokenEndpoint) -> None:
    """A refresh token is sent to its issuer or to the configured endpoint, with its own client ID."""
    assert token_endpoint(provenance, **options) == endpoint


@pytest.mark.parametrize(
    "issuer", ["http://issuer.example", "http://127.0.0.1.example", "ftp://x", "https://", "//x", "x"]
)
def test_token_endpoint_in_clear_text(issuer: str) -> None:
    """No refresh token is sent to an issuer without HTTPS."""
    with pytest.raises(CredentialRejected):
        token_endpoint(Provenance(issuer))
