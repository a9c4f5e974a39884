"""Field rules: fields bound to one hop, one account or one address are not forwarded."""

from __future__ import annotations

import string
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.protocol.http.fields import (
    forwardable_request_fields,
    forwardable_response_fields,
    upstream_request_fields,
    value_of,
)


@pytest.mark.parametrize(
    "name",
    """Connection Keep-Alive Proxy-Authenticate Proxy-Authorization Proxy-Connection TE Trailer Transfer-Encoding
    Upgrade Authorization ChatGPT-Account-Id chatgpt_account_id OpenAI-Organization OpenAI-Project openai_project
    transfer_encoding X_Forwarded_For X-OpenAI-Fedramp x-openai-account-routing-override Cookie Cookie2 Expect
    Host Content-Length Forwarded Via X-Real-IP X-Forwarded-For X-Forwarded-Proto X-Forwarded-Anything True-Client-IP
    X-HTTP-Method-Override X-Original-URL X-Rewrite-URL x_http_method_override Origin Referer Sec-Fetch-Site
    Access-Control-Request-Method CF-Connecting-IP CF-Ray CDN-Loop X-Client-IP""".split(),
)
def test_request_field_is_dropped(name: str) -> None:
    """Fields of one hop, account, address or web page, or that change the request, do not go upstream, in any case."""
    for spelling in (name, name.upper(), name.lower()):
        assert forwardable_request_fields([(spelling, "x"), ("Accept", "y")]) == [("accept", "y")]


@pytest.mark.parametrize(
    "name",
    """session_id conversation_id thread_id session-id thread-id x-codex-turn-metadata
    x-openai-internal-codex-responses-lite originator user-agent accept accept-encoding content-type content-encoding
    openai-beta x-client-request-id sec-websocket-key x-stainless-lang""".split(),
)
def test_request_field_is_forwarded(name: str) -> None:
    """All other fields are forwarded; an underscore stays an underscore."""
    assert forwardable_request_fields([(name.upper(), "Value")]) == [(name, "Value")]


def test_connection_options_are_dropped() -> None:
    """Fields named in Connection are for this hop only."""
    fields = [("Connection", "close, X-Hop ,x-other"), ("x-hop", "1"), ("X-Other", "2"), ("X-Kept", "3")]
    assert forwardable_request_fields(fields) == [("x-kept", "3")]
    assert forwardable_response_fields(fields) == [("X-Kept", "3")]


@pytest.mark.parametrize("name", ["content-encoding", "content-type", "accept-encoding"])
def test_connection_options_do_not_change_the_content(name: str) -> None:
    """A coding or a media type stays with its content, so that it is read here as at its recipient."""
    fields = [("connection", f"close, {name}"), (name, "gzip")]
    assert forwardable_request_fields(fields) == [(name, "gzip")]
    assert forwardable_response_fields(fields) == [(name, "gzip")]


def test_duplicates_keep_their_order() -> None:
    """Repeated fields stay separate and in order."""
    fields = [("x-a", "1"), ("x-b", "2"), ("x-a", "3")]
    assert forwardable_request_fields(fields) == fields
    assert forwardable_response_fields(fields) == fields
    assert value_of(fields, "x-a") == "1, 3"
    assert value_of(fields, "x-c") is None


def test_upstream_fields_are_complete_and_nothing_more() -> None:
    """Host, the client's fields, the owner's account and the body's length, without fields added by a library."""
    fields = upstream_request_fields(
        [("ACCEPT", "a/b"), ("AUTHORIZATION", "Bearer theirs")],
        host="chatgpt.com",
        account=[("authorization", "Bearer owner"), ("chatgpt-account-id", "acct")],
        content_length=0,
        overrides={},
    )
    assert fields == [
        ("host", "chatgpt.com"),
        ("accept", "a/b"),
        ("authorization", "Bearer owner"),
        ("chatgpt-account-id", "acct"),
        ("content-length", "0"),
    ]


def test_overrides_replace_all_fields_of_their_name() -> None:
    """The configuration's headers override the client's fields and the account's."""
    fields = upstream_request_fields(
        [("user-agent", "theirs"), ("X-Multi", "1"), ("x-multi", "2")],
        host="h",
        account=[("authorization", "Bearer owner")],
        content_length=None,
        overrides={"User-Agent": ("ours",), "X-Multi": ("3", "4"), "Authorization": ("Bearer other",)},
    )
    assert fields == [
        ("host", "h"),
        ("user-agent", "ours"),
        ("x-multi", "3"),
        ("x-multi", "4"),
        ("authorization", "Bearer other"),
    ]


@pytest.mark.parametrize(
    "name",
    """Set-Cookie Set-Cookie2 X-Accel-Redirect X-Accel-Buffering x-accel-expires Access-Control-Allow-Origin Connection
    Keep-Alive Transfer-Encoding Upgrade Trailer Proxy-Authenticate""".split(),
)
def test_response_field_is_dropped(name: str) -> None:
    """Cookies, nginx's internal fields, upstream's word on web pages and fields of one hop do not reach the client."""
    assert forwardable_response_fields([(name, "x"), ("ETag", '"y"')]) == [("ETag", '"y"')]


@pytest.mark.parametrize(
    "name",
    """Content-Type Content-Encoding Content-Length Location Retry-After ETag x-codex-primary-used-percent
    openai-model x-request-id cf-ray Date Server X-Models-Etag www-authenticate""".split(),
)
def test_response_field_is_forwarded(name: str) -> None:
    """All other fields are forwarded unchanged, in their original case."""
    assert forwardable_response_fields([(name, "Value")]) == [(name, "Value")]


def test_content_length_with_transfer_encoding_is_dropped() -> None:
    """Transfer-Encoding overrides Content-Length (RFC 9112 section 6.3)."""
    assert forwardable_response_fields([("Content-Length", "5"), ("Transfer-Encoding", "chunked")]) == []


@pytest.mark.parametrize(
    ("value", "sent"),
    [("a\tb", "a\tb"), ("a\xe4", "a\xe4"), ("a\r\nb", None), ("a\n b", None), ("a\x00b", None), ("a\x7fb", None)],
)
def test_response_value_cannot_break_out(value: str, sent: str | None) -> None:
    """A field with a value that no server could send is dropped."""
    assert forwardable_response_fields([("x-a", value)]) == ([] if sent is None else [("x-a", sent)])


def test_response_name_must_be_a_token() -> None:
    """A field with an invalid name is dropped."""
    assert forwardable_response_fields([("", "x"), ("a b", "x"), ("a:b", "x"), ("ok", "x")]) == [("ok", "x")]


NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20)
FIELDS = st.lists(st.tuples(NAMES | st.sampled_from(["Cookie", "Connection", "X-Forwarded-For"]), st.text(max_size=8)))


@given(FIELDS)
def test_forwarding_twice_changes_nothing(fields: list[tuple[str, str]]) -> None:
    """Forwarded fields are forwarded again: none is left that should have been dropped."""
    once = forwardable_request_fields(fields)
    assert forwardable_request_fields(once) == once
    answered = forwardable_response_fields(fields)
    assert forwardable_response_fields(answered) == answered


ACCOUNT = {"Authorization": "Bearer owner", "ChatGPT-Account-Id": "acct-owner", "OpenAI-Organization": "org-owner"}
OF_ACCOUNTS = st.sampled_from([*ACCOUNT, *map(str.lower, ACCOUNT), "CHATGPT_ACCOUNT_ID", "Host", "Content-Length"])


@given(FIELDS, st.lists(st.tuples(OF_ACCOUNTS, st.just("x")), min_size=1), st.randoms())
def test_the_client_cannot_choose_the_account(
    fields: list[tuple[str, str]], of_account: list[tuple[str, str]], random: Random
) -> None:
    """Whatever fields a client sends, upstream sees the owner's account and no other, each field of it once."""
    fields = [*fields, *of_account]
    random.shuffle(fields)
    account = [(name.lower(), value) for name, value in ACCOUNT.items()]
    sent = upstream_request_fields(fields, host="h", account=account, content_length=3, overrides={})
    for name, value in (*account, ("host", "h"), ("content-length", "3")):
        assert [found for field, found in sent if field.replace("_", "-") == name] == [value]
    assert not any(name in {"cookie", "transfer-encoding"} or name.startswith("x-forwarded-") for name, _ in sent)
