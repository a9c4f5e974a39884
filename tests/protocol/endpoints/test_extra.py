"""Endpoints that the owner adds: they open what they name, and nothing else."""

from __future__ import annotations

import pytest

from ocm_wsgi.config import ExtraEndpoint
from ocm_wsgi.errors import AdminOnly, EndpointUnavailable, MethodNotSupported, NotFound
from ocm_wsgi.protocol.endpoints.endpoint import Endpoint
from ocm_wsgi.protocol.endpoints.table import CHATGPT, PLATFORM, EndpointTable


def extra(method: str, path: str, **members: object) -> Endpoint:
    """Return an additional endpoint as the configuration describes it."""
    return ExtraEndpoint.model_validate({"method": method, "path": f"/v1/{path}", **members}).endpoint()


@pytest.mark.parametrize("table", [CHATGPT, PLATFORM])
def test_an_extra_endpoint_passes(table: EndpointTable) -> None:
    """It is for admins unless it says otherwise, and what is added leaves the rest as it was."""
    added = [extra("GET", "alpha/notes/{note}"), extra("POST", "alpha/notes", users="all")]
    extended = table.extended(added)
    assert extended.find("GET", "alpha/notes/n_1", is_admin=True) == added[0]
    assert extended.find("POST", "alpha/notes", is_admin=False) == added[1]
    with pytest.raises(AdminOnly):
        extended.find("GET", "alpha/notes/n_1", is_admin=False)
    with pytest.raises(MethodNotSupported):
        extended.find("DELETE", "alpha/notes/n_1", is_admin=True)
    with pytest.raises(NotFound):
        extended.find("GET", "alpha/notes/n_1/x", is_admin=True)
    with pytest.raises(NotFound):
        table.find("GET", "alpha/notes/n_1", is_admin=True)
    assert set(table.endpoints) < set(extended.endpoints)


@pytest.mark.parametrize(
    ("method", "counted", "family"),
    [
        ("GET", None, None),
        ("HEAD", None, None),
        ("POST", None, "other"),
        ("PUT", None, "other"),
        ("DELETE", None, "other"),
        ("GET", True, "other"),
        ("POST", False, None),
    ],
)
def test_an_extra_endpoint_is_counted(method: str, counted: bool | None, family: str | None) -> None:
    """What might make a model work is a turn unless the owner says that it is none."""
    assert extra(method, "a/b", counted=counted).family == family


def test_an_extra_endpoint_changes_no_built_in_one() -> None:
    """A row that both have keeps its rules: for an API key a stored response stays its user's own."""
    extended = PLATFORM.extended([extra("GET", "responses/{id}", users="all")])
    assert extended is PLATFORM
    widened = CHATGPT.extended([extra("GET", "responses/{id}", users="all")])
    assert widened.find("GET", "responses/resp_1", is_admin=False).path == "responses/{id}"
    with pytest.raises(EndpointUnavailable):
        CHATGPT.find("GET", "responses/resp_1", is_admin=False)


@pytest.mark.parametrize("table", [CHATGPT, PLATFORM])
@pytest.mark.parametrize(
    "path", ["realtime/client_secrets", "realtime/sessions", "realtime/Client_Secrets", "realtime/sess%69ons"]
)
def test_an_extra_endpoint_makes_no_keys(table: EndpointTable, path: str) -> None:
    """A parameter does not stand for the words that make keys or tokens."""
    extended = table.extended([extra("POST", "realtime/{any}", users="all")])
    assert extended.find("POST", "realtime/anything", is_admin=False)
    for method in ("POST", "GET"):
        with pytest.raises(NotFound, match="past this service"):
            extended.find(method, path, is_admin=True)


def test_sessions_that_make_no_keys_can_be_added() -> None:
    """The owner may open what is missing only because the service cannot see what it uses."""
    extended = PLATFORM.extended([extra("POST", "agents/sessions"), extra("GET", "agents/sessions/{session}")])
    assert extended.find("POST", "agents/sessions", is_admin=True).is_turn
    assert not extended.find("GET", "agents/sessions/s_1", is_admin=True).is_turn


def test_an_extra_endpoint_of_a_stored_object() -> None:
    """A parameter with the name of a kind of object is the ID of one."""
    endpoint = extra("POST", "files/{file}/copy")
    assert (endpoint.object_kind, endpoint.object_id("files/file-1/copy")) == ("file", "file-1")
