"""Flask without the work at each request that only other applications need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Flask, Request
from werkzeug.routing import MapAdapter, Rule

from ocm_wsgi.protocol.http.targets import API_PREFIX

#: Names of this service in `Host`; more of them are not remembered.
MOST_HOSTS = 64


class Application(Flask):
    """Flask for synchronous views, with one view for all paths of the API.

    :ivar api_rule: the rule of that view; set by its module.
    """

    api_rule: Rule | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._adapters: dict[tuple[str, str, str], MapAdapter] = {}

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function unchanged; Flask checks five functions per request for being async."""
        return func

    def create_url_adapter(self, request: Request | None) -> MapAdapter | None:
        """Return what finds the rule of a request. An API request's is known, unless its path needs decoding."""
        environ = {} if request is None else request.environ
        path = environ.get("PATH_INFO", "")
        is_api = path.startswith(API_PREFIX) and path.isascii() and path.isprintable()
        if self.api_rule is None or not is_api or "HTTP_HOST" not in environ:
            return super().create_url_adapter(request)
        key = (environ["HTTP_HOST"], environ.get("SCRIPT_NAME", ""), environ["wsgi.url_scheme"])
        adapter = self._adapters.get(key)
        if adapter is None:
            adapter = super().create_url_adapter(request)  # It refuses an invalid host.
            if adapter is None or len(self._adapters) >= MOST_HOSTS:
                return adapter
            self._adapters[key] = adapter
        return _ApiAdapter(adapter, path, self.api_rule)


class _ApiAdapter(MapAdapter):
    """Finds the rule of an API request without searching."""

    def __init__(self, of_host: MapAdapter, path: str, rule: Rule) -> None:
        self.__dict__.update(of_host.__dict__)
        self.path_info = path
        self._api_rule = rule

    def match(self, path_info: str | None = None, *arguments: Any, **options: Any) -> Any:
        """Return the rule and its arguments; for another path, or with other options than Flask's, search them."""
        if path_info is None and not arguments and options == {"return_rule": True}:
            return self._api_rule, {"rest": self.path_info[len(API_PREFIX) :]}
        return super().match(path_info, *arguments, **options)
