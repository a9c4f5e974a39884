"""The table of endpoints: what is in it passes, everything else is refused with a sentence."""

from __future__ import annotations

import pytest

from ocm_wsgi.errors import (
    AdminOnly,
    EndpointUnavailable,
    MethodNotSupported,
    NotFound,
    OcmError,
    UpgradeUnavailable,
)
from ocm_wsgi.protocol.endpoints.endpoint import WEBSOCKET, Endpoint
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable, makes_keys


@pytest.mark.parametrize(
    ("method", "path", "family"),
    [
        ("GET", "models", None),
        ("HEAD", "models", None),
        (WEBSOCKET, "responses", "responses"),
        ("POST", "responses", "responses"),
        ("POST", "responses/compact", "responses"),
        ("POST", "alpha/search", "search"),
        ("POST", "images/generations", "images"),
        ("POST", "images/edits", "images"),
        ("POST", "memories/trace_summarize", "memories"),
        ("POST", "realtime/calls", "realtime"),
    ],
)
def test_what_codex_uses_passes_with_a_chatgpt_sign_in(method: str, path: str, family: str | None) -> None:
    """The endpoints of the Codex client and its features pass, and those that make a model work are turns."""
    endpoint = CHATGPT.find(method, path, is_admin=False)
    assert (endpoint.method, endpoint.path, endpoint.family) == (method, path, family)


@pytest.mark.parametrize(
    "path",
    [
        "remote_control/hosts",
        "goals",
        "analytics-events/events",
        "alpha/notes/v2/list",
        "alpha/history/list",
        "tasks",
        "Responses",
        "responses/",
        "responses;v=1",
        "x",
    ],
)
@pytest.mark.parametrize("table", [CHATGPT, PLATFORM])
def test_what_is_in_no_table_is_not_found(table: EndpointTable, path: str) -> None:
    """Whatever else is below the base path, such as the owner's remote-control hosts, is out of reach for all."""
    for method in ("GET", "POST", "DELETE", "TRACE"):
        with pytest.raises(NotFound, match=r"There is no /v1/.* here\. What exists: /v1/models, /v1/responses, "):
            table.find(method, path, is_admin=True)


@pytest.mark.parametrize(
    "path",
    [
        "chat/completions",
        "completions",
        "embeddings",
        "audio/speech",
        "batches",
        "files",
        "moderations",
        "responses/resp_1",
        "models/gpt-5",
    ],
)
def test_what_needs_an_api_key_says_so(path: str) -> None:
    """Endpoints of the platform get one sentence with a ChatGPT sign-in, whatever the method."""
    for method in ("GET", "POST", "DELETE"):
        with pytest.raises(EndpointUnavailable, match=rf"/v1/{path} needs an OpenAI API key") as raised:
            CHATGPT.find(method, path, is_admin=True)
        assert raised.value.status == 400


@pytest.mark.parametrize(
    "path",
    [
        "realtime/client_secrets",
        "realtime/sessions",
        "realtime/transcription_sessions",
        "realtime/translations/client_secrets",
        "chatkit/sessions",
        "realtime/sessions/s_1",
        "live/ephemeral_tokens",
        "organization/admin_api_keys",
        "organization/usage/completions",
        "organization/projects/p/service_accounts",
        "projects/p/roles",
        "ORGANIZATION/users",
        "realtime/client%5Fsecrets",
    ],
)
@pytest.mark.parametrize("table", [CHATGPT, PLATFORM])
def test_what_makes_keys_is_never_relayed(table: EndpointTable, path: str) -> None:
    """A key made by a user would work past the service, so not even an admin reaches these."""
    assert makes_keys(path)
    for method in ("GET", "POST"):
        with pytest.raises(NotFound, match="keys and tokens would work past this service"):
            table.find(method, path, is_admin=True)


@pytest.mark.parametrize("table", [CHATGPT, PLATFORM])
def test_no_endpoint_makes_keys(table: EndpointTable) -> None:
    """No row of a table has a path that makes keys."""
    assert not [endpoint.path for endpoint in table.endpoints if makes_keys(endpoint.path)]


@pytest.mark.parametrize(
    ("table", "method", "path", "allowed"),
    [
        (CHATGPT, "GET", "responses", "POST"),
        (CHATGPT, "TRACE", "models", "GET, HEAD"),
        (CHATGPT, "get", "models", "GET, HEAD"),
        (PLATFORM, "POST", "responses/resp_1", "GET, DELETE"),
        (PLATFORM, "OPTIONS", "files/file-1/content", "GET"),
    ],
)
def test_another_method_is_refused(table: EndpointTable, method: str, path: str, allowed: str) -> None:
    """A path that exists names its methods."""
    with pytest.raises(MethodNotSupported, match=method) as raised:
        table.find(method, path, is_admin=True)
    assert (raised.value.status, raised.value.response_fields) == (405, {"Allow": allowed})


@pytest.mark.parametrize("path", ["models", "responses/compact", "realtime", "x", "organization/users"])
@pytest.mark.parametrize("table", [CHATGPT, PLATFORM])
def test_a_websocket_elsewhere_is_refused_with_426(table: EndpointTable, path: str) -> None:
    """Codex falls back to HTTP at once on 426."""
    with pytest.raises(UpgradeUnavailable):
        table.find(WEBSOCKET, path, is_admin=True)


def test_only_admins_delete_models() -> None:
    """A fine-tuned model is the owner's."""
    assert PLATFORM.find("DELETE", "models/ft:gpt-5:acme::x", is_admin=True).for_admins
    with pytest.raises(AdminOnly):
        PLATFORM.find("DELETE", "models/ft:gpt-5:acme::x", is_admin=False)


@pytest.mark.parametrize(
    "path",
    [
        "chat/%63ompletions",
        "responses/%63ompact",
        "responses/COMPACT",
        "models/org%2fmodel",
        "models/org%2Fmodel",
        "responses/resp_1%23",
        "responses/resp_1%3f",
        "responses/resp_1;x",
        "responses/resp_1/",
        "responses/",
        "responses/%20",
        "videos/edits/content",
    ],
)
def test_a_path_that_can_be_read_in_two_ways_is_refused(path: str) -> None:
    """What upstream might decode, split or fold into another endpoint is none."""
    for method in ("GET", "POST", "DELETE"):
        with pytest.raises((NotFound, MethodNotSupported)) as raised:
            PLATFORM.find(method, path, is_admin=True)
        assert isinstance(raised.value, NotFound) or path == "responses/compact"


@pytest.mark.parametrize("name", ["gpt-5.5", "ft:gpt-4o:acme::AbC", "ft%3Agpt-4o%3Aacme%3A%3AAbC", "o3"])
def test_names_may_be_percent_encoded(name: str) -> None:
    """Clients encode the colons of a model's name."""
    assert PLATFORM.find("GET", f"models/{name}", is_admin=False).path == "models/{model}"


@pytest.mark.parametrize(
    ("method", "path", "kind", "object_id", "deletes"),
    [
        ("GET", "responses/resp_1", "response", "resp_1", False),
        ("DELETE", "responses/resp_1", "response", "resp_1", True),
        ("POST", "responses/resp_1/cancel", "response", "resp_1", False),
        ("DELETE", "vector_stores/vs_1/files/file-1", "vector_store", "vs_1", False),
        ("GET", "fine_tuning/jobs/ftjob-1/events", "fine_tuning_job", "ftjob-1", False),
        ("GET", "models/gpt-5", None, None, False),
        ("POST", "responses", None, None, False),
    ],
)
def test_the_stored_object_of_a_request(
    method: str, path: str, kind: str | None, object_id: str | None, deletes: bool
) -> None:
    """The object is the outermost one that the path names."""
    endpoint = PLATFORM.find(method, path, is_admin=True)
    assert (endpoint.object_kind, endpoint.object_id(path), endpoint.deletes) == (kind, object_id, deletes)


def test_what_creates_and_lists_stored_objects() -> None:
    """Every kind that can be listed or named can be created, and the other way round."""
    endpoints = PLATFORM.endpoints
    created = {endpoint.creates for endpoint in endpoints if endpoint.creates}
    assert created == {endpoint.object_kind for endpoint in endpoints if endpoint.object_kind}
    assert {endpoint.lists for endpoint in endpoints if endpoint.lists} <= created
    assert not any(endpoint.creates or endpoint.lists or endpoint.object_kind for endpoint in CHATGPT.endpoints)


def test_a_method_of_a_path_occurs_once() -> None:
    """A second row would silently replace the first."""
    with pytest.raises(ValueError, match="GET models occurs twice"):
        EndpointTable("chatgpt", [Endpoint("GET", "models"), Endpoint("GET", "models")])


def test_long_paths_are_shortened_in_the_sentence() -> None:
    """A sentence that a client reads repeats at most the beginning of its path."""
    with pytest.raises(OcmError) as raised:
        CHATGPT.find("GET", "x" * 5000, is_admin=True)
    assert len(raised.value.message) < 500
