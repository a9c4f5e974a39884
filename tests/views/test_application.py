"""The rule of an API request is found without a search, and is the one that Flask would find."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, Request
from werkzeug.exceptions import BadHost, HTTPException
from werkzeug.routing import PathConverter, Rule
from werkzeug.test import EnvironBuilder

from ocm_wsgi.views import application
from ocm_wsgi.views.application import Application


class Rest(PathConverter):
    """As in ``views.proxy``."""

    regex = ".*?"
    part_isolating = False


@pytest.fixture
def app() -> Application:
    """An application with the rule of the API, and another one."""
    app = Application(__name__, static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.converters["rest"] = Rest
    app.api_rule = Rule("/v1/<rest:rest>", endpoint="relay")
    app.url_map.add(app.api_rule)
    app.add_url_rule("/page", "page", str)
    return app


def request(path: str, host: str = "127.0.0.1:8080", **environ: Any) -> Request:
    """Return a request for a path."""
    built = EnvironBuilder(path="/", method="POST").get_environ()
    return Request({**built, "PATH_INFO": path, "HTTP_HOST": host, **environ})


def found(adapter: Any) -> Any:
    """Return the rule's endpoint and arguments, or the exception's class."""
    try:
        rule, arguments = adapter.match(return_rule=True)
    except HTTPException as exc:
        return type(exc)
    return rule.endpoint, arguments


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/responses", "/v1/", "/v1/a//b", "/v1/responses/", "/v1/a b", "/v1/%2e", "/v1/a\nb", "/v1/\xc3\xa4"),
        *("/v1/../page", "/v1", "/v10/x", "//v1/responses", "/page", "/", ""),
    ],
)
def test_the_rule_is_the_one_that_flask_finds(app: Application, path: str) -> None:
    """For every path, the first request and the next ones find what Flask does."""
    expected = found(Flask.create_url_adapter(app, request(path)))
    for _ in range(3):
        assert found(app.create_url_adapter(request(path))) == expected


def test_an_invalid_host_is_refused_each_time(app: Application) -> None:
    """A host that Flask refuses is not remembered."""
    for _ in range(3):
        with pytest.raises(BadHost):
            app.create_url_adapter(request("/v1/responses", f"{'a' * 64}.example"))
        assert found(app.create_url_adapter(request("/v1/responses"))) == ("relay", {"rest": "responses"})


def test_hosts_are_remembered_up_to_a_limit(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts that a client makes up take no memory beyond a limit, and find the rule nevertheless."""
    monkeypatch.setattr(application, "MOST_HOSTS", 3)
    for number in range(9):
        adapter = app.create_url_adapter(request("/v1/responses", f"host{number}"))
        assert found(adapter) == ("relay", {"rest": "responses"})
    assert len(app._adapters) == 3


def test_other_options_are_searched(app: Application) -> None:
    """A match for another path, or without the rule, is Flask's."""
    app.create_url_adapter(request("/v1/responses"))
    adapter: Any = app.create_url_adapter(request("/v1/responses"))
    assert adapter.match() == ("relay", {"rest": "responses"})
    assert adapter.match("/page", method="GET") == ("page", {})
    assert adapter.build("page") == "/page"
