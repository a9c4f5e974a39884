"""A walk over methods, paths, credentials and users, against a reference that is written down here once more."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocm_wsgi.errors import OcmError
from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM
from ocm_wsgi.protocol.http.targets import api_target

#: Methods and paths that pass; ``*`` is an ID, ``!`` marks what is for admins.
REFERENCE = {
    "chatgpt": """
        GET HEAD             models
        WEBSOCKET POST       responses
        POST                 responses/compact alpha/search images/generations images/edits memories/trace_summarize
        POST                 realtime/calls
    """,
    "apikey": """
        GET HEAD             models models/*
        !DELETE              models/*
        WEBSOCKET POST       responses
        POST                 responses/compact responses/input_tokens responses/*/cancel
        GET DELETE           responses/*
        GET                  responses/*/input_items
        POST                 conversations
        GET POST DELETE      conversations/*
        GET POST             conversations/*/items
        GET DELETE           conversations/*/items/*
        GET POST             chat/completions
        GET POST DELETE      chat/completions/*
        GET                  chat/completions/*/messages
        POST                 completions embeddings moderations images/generations images/edits images/variations
        POST                 audio/speech audio/transcriptions audio/translations
        GET POST             videos
        POST                 videos/edits videos/extensions videos/*/remix
        GET DELETE           videos/*
        GET                  videos/*/content
        GET POST             files containers skills vector_stores batches fine_tuning/jobs evals assistants
        GET DELETE           files/*
        GET                  files/*/content
        POST                 uploads uploads/*/parts uploads/*/complete uploads/*/cancel
        GET DELETE           containers/* containers/*/files/*
        GET POST             containers/*/files
        GET                  containers/*/files/*/content
        GET POST DELETE      skills/*
        GET                  skills/*/content skills/*/versions/*/content
        GET POST             skills/*/versions
        GET DELETE           skills/*/versions/*
        GET POST DELETE      vector_stores/* vector_stores/*/files/*
        POST                 vector_stores/*/search vector_stores/*/file_batches vector_stores/*/file_batches/*/cancel
        GET POST             vector_stores/*/files
        GET                  vector_stores/*/files/*/content
        GET                  vector_stores/*/file_batches/* vector_stores/*/file_batches/*/files
        GET                  batches/*
        POST                 batches/*/cancel
        GET                  fine_tuning/jobs/* fine_tuning/jobs/*/checkpoints fine_tuning/jobs/*/events
        POST                 fine_tuning/jobs/*/cancel fine_tuning/jobs/*/pause fine_tuning/jobs/*/resume
        GET POST DELETE      evals/*
        GET POST             evals/*/runs
        GET DELETE           evals/*/runs/*
        POST                 evals/*/runs/*/cancel
        GET                  evals/*/runs/*/output_items evals/*/runs/*/output_items/*
        GET POST DELETE      assistants/*
        POST                 threads threads/runs
        GET POST DELETE      threads/*
        GET POST             threads/*/messages threads/*/runs
        GET POST DELETE      threads/*/messages/*
        GET POST             threads/*/runs/*
        POST                 threads/*/runs/*/cancel threads/*/runs/*/submit_tool_outputs
        GET                  threads/*/runs/*/steps threads/*/runs/*/steps/*
    """,
}
KEY_MAKING = """realtime/client_secrets realtime/sessions realtime/transcription_sessions chatkit/sessions
    realtime/translations/client_secrets organization/admin_api_keys organization/projects/proj_1/api_keys
    organization/usage/completions projects/proj_1/roles vaults/vault_1/credentials
    webhook_endpoints/we_1/rotate_secret""".split()
KEY_WORDS = """access_tokens admin_api_keys api_keys client_secrets credentials ephemeral_keys ephemeral_tokens keys
    realtime rotate_secret secrets service_accounts session_tokens sessions tokens transcription_sessions""".split()
UNKNOWN = """remote_control/hosts remote-control/enroll goals analytics-events alpha/notes/v2/list alpha/history tasks
    wham/usage conversations/init realtime agents/sessions live/sessions decisions safety/cases""".split()
WORDS = sorted(
    {word for text in (*REFERENCE.values(), *KEY_MAKING, *UNKNOWN) for word in re.split(r"[\s/]+", text)} - {"", "*"}
)
TABLES = {"chatgpt": CHATGPT, "apikey": PLATFORM}


def rows(kind: str) -> list[tuple[str, str]]:
    """Return the reference for a credential, one method and one path at a time."""
    found = []
    for line in REFERENCE[kind].split("\n"):
        methods = [cell for cell in line.split() if cell.strip("!").isupper()]
        found += [
            (WEBSOCKET if method == "WEBSOCKET" else method, path)
            for method in methods
            for path in line.split()
            if path not in methods
        ]
    return found


def words(kind: str) -> set[str]:
    """Return the words of a credential's paths."""
    return {word for _, path in rows(kind) for word in path.split("/")} - {"*"} | set(KEY_WORDS)


def fits(kind: str, pattern: str, path: str) -> bool:
    """Return whether a path, as written, is one of a pattern."""
    expected, segments = pattern.split("/"), path.split("/")
    return len(expected) == len(segments) and all(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@~+-]*", unquote(segment))
        and unquote(segment).lower() not in words(kind)
        if word == "*"
        else word == segment
        for word, segment in zip(expected, segments, strict=True)
    )


def reference(kind: str, method: str, path: str, *, is_admin: bool) -> int:
    """Return the status that a request gets, or 200 if it passes."""
    methods = {method for method, pattern in rows(kind) if fits(kind, pattern, path)}
    if method in methods or (is_admin and f"!{method}" in methods):
        return 200
    if method == WEBSOCKET:
        return 426
    if f"!{method}" in methods:
        return 403
    if methods:
        return 405
    lowered = unquote(path).lower().split("/")
    if any(lowered[: len(key.split("/"))] == key.split("/") for key in KEY_MAKING):
        return 404
    is_on_platform = any(fits("apikey", pattern, path) for _, pattern in rows("apikey"))
    return 400 if kind == "chatgpt" and is_on_platform else 404


def outcome(kind: str, method: str, path: str, *, is_admin: bool) -> int:
    """Return what the table says."""
    try:
        endpoint = TABLES[kind].find(method, path, is_admin=is_admin)
    except OcmError as exc:
        return exc.status
    assert endpoint.method == method
    return 200


IDS = st.sampled_from(
    ["resp_1", "file-1", "ft:gpt-5:acme::x", "ft%3Agpt", "gpt-5.5", "a%2Fb", "..a", "x;y", "%20", "", "_"]
)
SEGMENTS = st.sampled_from(WORDS) | IDS
SPELLINGS: list[Callable[[str], str]] = [
    str,
    str,
    str,
    str.upper,
    str.title,
    lambda text: text.replace("e", "%65"),
    lambda text: f"{text}/",
]
METHODS = st.sampled_from(
    [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "get",
        WEBSOCKET,
        "WEBSOCKET",
        "",
        "/",
    ]
)
KNOWN = st.sampled_from([path for kind in REFERENCE for _, path in rows(kind)] + KEY_MAKING + UNKNOWN)


@st.composite
def paths(draw: st.DrawFn) -> str:
    """Draw a path: a known one with IDs put in, or segments at random, in some spelling."""
    path = draw(KNOWN | st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join))
    while "*" in path:
        path = path.replace("*", draw(SEGMENTS), 1)
    return draw(st.sampled_from(SPELLINGS))(path)


@given(st.sampled_from(sorted(TABLES)), METHODS, paths(), st.booleans())
def test_the_table_is_the_reference(kind: str, method: str, path: str, is_admin: bool) -> None:
    """Exactly what the reference lists passes; anything else gets the status that the reference names."""
    assert outcome(kind, method, path, is_admin=is_admin) == reference(kind, method, path, is_admin=is_admin)


@pytest.mark.parametrize("kind", sorted(TABLES))
def test_every_row_of_the_reference_passes(kind: str) -> None:
    """Each row is in the table, and the table has no other."""
    for method, path in rows(kind):
        assert outcome(kind, method.strip("!"), path.replace("*", "id_1"), is_admin=True) == 200
        assert outcome(kind, method.strip("!"), path.replace("*", "id_1"), is_admin=False) == (
            403 if "!" in method else 200
        )
    in_table = {(each.method, re.sub(r"\{\w+\}", "*", each.path), each.for_admins) for each in TABLES[kind].endpoints}
    assert in_table == {(method.strip("!"), path, "!" in method) for method, path in rows(kind)}


@given(paths())
def test_what_passes_is_a_target_without_ambiguity(path: str) -> None:
    """A path that the target guard accepts and that has an endpoint decodes to the same segments on any server."""
    try:
        target = api_target(f"/v1/{path}")
        endpoint = PLATFORM.find("GET", target.path, is_admin=True)
    except OcmError:
        return
    decoded = unquote(target.path)
    assert decoded.count("/") == endpoint.path.count("/")
    assert unquote(decoded) == decoded
    assert not re.search(r"[;\\?#%]", decoded)
