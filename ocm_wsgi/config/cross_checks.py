"""Checks across several keys, and of the files that keys name, once each value is valid on its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ocm_wsgi.config.paths import JsonPath, json_path
from ocm_wsgi.config.tls import TLS, Certificate
from ocm_wsgi.errors import ConfigProblem, ConfigurationError
from ocm_wsgi.tls import contexts


def duplicates(members: Mapping[str, Any], path: JsonPath) -> list[ConfigProblem]:
    """Report users, tokens, endpoints and fields given twice.

    Works on the raw document, so that duplicates are reported even if other values are invalid.
    """
    users = members.get("users")
    headers = members.get("headers")
    users = users if isinstance(users, list) else []
    return [
        *_repeated(users, "name", (*path, "users")),
        *_repeated(users, "token", (*path, "users")),
        *_repeated_metrics_token(users, members.get("metrics_token"), path),
        *_repeated_endpoints(members.get("extra_endpoints"), (*path, "extra_endpoints")),
        *_repeated_fields(headers if isinstance(headers, dict) else {}, (*path, "headers")),
    ]


def _repeated(users: Iterable[Any], key: str, path: JsonPath) -> list[ConfigProblem]:
    first: dict[str, int] = {}
    problems = []
    for index, user in enumerate(users):
        value = user.get(key) if isinstance(user, dict) else None
        if not isinstance(value, str) or not value:
            continue
        if value in first:
            found = f"the same {key} as {json_path((*path, first[value], key))}"
            problems.append(ConfigProblem(json_path((*path, index, key)), found, f"a {key} that no other user has"))
        first.setdefault(value, index)
    return problems


def _repeated_metrics_token(users: Iterable[Any], metrics_token: Any, path: JsonPath) -> list[ConfigProblem]:
    for index, user in enumerate(users):
        if isinstance(user, dict) and metrics_token and user.get("token") == metrics_token:
            found = f"the same token as {json_path((*path, 'users', index, 'token'))}"
            return [ConfigProblem(json_path((*path, "metrics_token")), found, "a token that no user has")]
    return []


def _repeated_endpoints(endpoints: Any, path: JsonPath) -> list[ConfigProblem]:
    first: dict[tuple[str, str], int] = {}
    problems = []
    for index, endpoint in enumerate(endpoints if isinstance(endpoints, list) else []):
        method, target = (endpoint.get(key) if isinstance(endpoint, dict) else None for key in ("method", "path"))
        if not isinstance(method, str) or not isinstance(target, str):
            continue
        key = method, re.sub(r"\{[a-z_]+\}", "{}", target)
        if key in first:
            found = f"the same endpoint as {json_path((*path, first[key]))}"
            problems.append(ConfigProblem(json_path((*path, index)), found, "each endpoint once"))
        first.setdefault(key, index)
    return problems


def _repeated_fields(headers: Iterable[str], path: JsonPath) -> list[ConfigProblem]:
    seen: dict[str, str] = {}
    problems = []
    for name in headers:
        if name.lower() in seen:
            found = f"the field {seen[name.lower()]} again (names are case-insensitive)"
            problems.append(
                ConfigProblem(json_path((*path, name)), found, "each field once, with a list of its values")
            )
        seen.setdefault(name.lower(), name)
    return problems


def server_tls(members: Mapping[str, Any], path: JsonPath) -> list[ConfigProblem]:
    """Report what enabled TLS lacks or contradicts.

    Works on the raw document, so that this is reported even if other values are invalid.
    """
    if members.get("enabled") is not True:
        return []
    problems = []
    for key in ("certificate", "key"):
        if not members.get(key) and not members.get(f"{key}_path"):
            problems.append(ConfigProblem(json_path(path), f"TLS enabled without a {key}", f"{key} or {key}_path"))
    oldest, newest = members.get("min_version"), members.get("max_version")
    if (oldest, newest) == ("1.3", "1.2"):
        found = f"min_version {oldest}, above max_version {newest}"
        problems.append(ConfigProblem(json_path((*path, "min_version")), found, "a version not above max_version"))
    authorities = members.get("client_certificate") or members.get("client_certificate_path")
    wants_clients = members.get("client_authentication") in ("verify-if-given", "require-and-verify")
    if wants_clients and not authorities:
        expected = (
            "client_certificate or client_certificate_path beside it, the authorities that issue client certificates"
        )
        problems.append(
            ConfigProblem(
                json_path((*path, "client_authentication")), "no certificate to verify clients with", expected
            )
        )
    if authorities and members.get("client_authentication") in (None, "", "no"):
        expected = 'client_authentication: "verify-if-given" or "require-and-verify"'
        problems.append(
            ConfigProblem(json_path(path), "authorities for client certificates, which are not requested", expected)
        )
    return problems


def server_certificates(tls: TLS, path: JsonPath) -> list[ConfigProblem]:
    """Report problems with the certificates and keys of enabled TLS, by loading them."""
    return _problems_of(lambda: contexts.server_context(tls), path) if tls.enabled else []


def trusted_certificates(certificate: Certificate, environ: Mapping[str, str], path: JsonPath) -> list[ConfigProblem]:
    """Report problems with the certificates trusted for upstream, by loading them."""
    has_nothing_to_read = certificate in (Certificate(), Certificate(store="mozilla"), Certificate(store="system"))
    if has_nothing_to_read and not environ.get("SSL_CERT_FILE"):
        return []
    return _problems_of(lambda: contexts.build_upstream_context(certificate, environ), path)


def _problems_of(build: Callable[[], object], path: JsonPath) -> list[ConfigProblem]:
    try:
        build()
    except ConfigurationError as exc:
        return [
            problem if problem.where.isupper() else replace(problem, where=json_path((*path, problem.where)))
            for problem in exc.problems
        ]
    return []
