"""Every kind of problem in a configuration: the location it names and how it says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ocm_wsgi.config import TLS, Certificate, Config, UserConfig, load
from ocm_wsgi.errors import ConfigProblem, ConfigurationError

ALICE = {"name": "alice", "token": "sk-ocm-alice"}
SECRET = "sk-ocm-very-secret"
SOCKS = {"type": "socks", "tag": "warp", "server": "127.0.0.1", "server_port": 1080}


def problems_in(folder: Path, document: Any, **environ: str) -> list[ConfigProblem]:
    """Return the problems in a document (text verbatim, anything else as JSON)."""
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "ocm.json").write_text(text, encoding="utf-8")
    try:
        load(environ={"HOME": str(folder), **environ}, cwd=folder)
    except ConfigurationError as exc:
        return list(exc.problems)
    return []


EXTRA = {"method": "GET", "path": "/v1/alpha/notes/{note}"}


def extra(**members: Any) -> dict[str, Any]:
    """Return a configuration with one additional endpoint, changed by members."""
    return {"extra_endpoints": [{**EXTRA, **members}]}


def limits(**limit: Any) -> dict[str, Any]:
    """Return an entry whose only user has one limit, this one."""
    return {"users": [{**ALICE, "limits": [limit]}]}


def outbound(**members: Any) -> dict[str, Any]:
    """Return an entry whose detour is an outbound with these members changed."""
    return {"detour": "warp", "outbounds": [{**SOCKS, **members}]}


# id: (document, path of its one problem, words in the problem's text)
PROBLEMS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "not-an-object": ([1], "$", ("not an object", "entry of type ocm")),
    "empty-file": ("", "$", ("empty file", "JSON")),
    "syntax": ('{"listen": "::1",\n  "listen_port" 1}', "line 2, column 17", ('unexpected "1"', "JSON")),
    "unterminated": ('{"listen": "::1",', "line 1, column 18", ("unexpected end of input",)),
    "same-key-twice": ('{"users": [{"name": "a", "name": "b", "token": "t"}]}', "$.users[0].name", ("same key twice",)),
    "no-services-in-a-sing-box-file": ({"inbounds": []}, "$", ("without services", "type ocm")),
    "services-no-list": ({"services": {"type": "ocm"}}, "$.services", ("not a list",)),
    "no-ocm-service": ({"services": [{"type": "ccm"}]}, "$.services", ("no entry of type ocm", "exactly one")),
    "two-ocm-services": (
        {"services": [{"type": "ocm"}, {"type": "ccm"}, {"type": "ocm"}]},
        "$.services",
        ("2 entries", "[0, 2]", "exactly one"),
    ),
    "users-beside-services": ({"services": [{"type": "ocm"}], "users": [ALICE]}, "$.users", ("inside the entry",)),
    "outbounds-inside-the-entry": (
        {"services": [{"type": "ocm", "outbounds": []}]},
        "$.services[0].outbounds",
        ("at the top level",),
    ),
    "another-type": ({"type": "ccm"}, "$.type", ('"ocm"',)),
    "unknown-key": ({"listen_prot": 1}, "$.listen_prot", ("unknown key", "did you mean listen_port?")),
    "unknown-key-like-none": ({"zzzzzz": 1}, "$.zzzzzz", ("unknown key", "docs/configuration.md")),
    "unknown-key-in-whole-file": (
        {"services": [{"type": "ccm"}, {"type": "ocm", "credential_pth": "x"}]},
        "$.services[1].credential_pth",
        ("did you mean credential_path?",),
    ),
    "unknown-key-of-a-user": ({"users": [{**ALICE, "tokn": SECRET}]}, "$.users[0].tokn", ("did you mean token?",)),
    "unknown-key-with-odd-name": ({"a b": 1}, '$["a b"]', ("unknown key",)),
    "listen-host-name": ({"listen": "localhost"}, "$.listen", ('"localhost"', "IP address", "--bind")),
    "listen-number": ({"listen": 1}, "$.listen", ("found 1", "IP address")),
    "port-as-text": ({"listen_port": "8080"}, "$.listen_port", ('the string "8080"', "port number")),
    "port-too-large": ({"listen_port": 65536}, "$.listen_port", ("65536", "0 to 65535")),
    "port-negative": ({"listen_port": -1}, "$.listen_port", ("-1", "0 to 65535")),
    "port-fraction": ({"listen_port": 80.5}, "$.listen_port", ("80.5", "0 to 65535")),
    "port-flag": ({"listen_port": True}, "$.listen_port", ("found true", "0 to 65535")),
    "interface-too-long": ({"bind_interface": "x" * 16}, "$.bind_interface", ("network interface", "15")),
    "mark-no-number": ({"routing_mark": "0xzz"}, "$.routing_mark", ("hexadecimal",)),
    "mark-too-large": ({"routing_mark": 2**32}, "$.routing_mark", ("4294967295",)),
    "flag-as-number": ({"reuse_addr": 1}, "$.reuse_addr", ("found 1", "true or false")),
    "flag-as-text": ({"tcp_fast_open": "true"}, "$.tcp_fast_open", ("true or false",)),
    "duration-without-unit": ({"tcp_keep_alive": "300"}, "$.tcp_keep_alive", ('"300"', "unit", "5m")),
    "duration-as-number": ({"tcp_keep_alive": 300}, "$.tcp_keep_alive", ("found 300", "unit")),
    "duration-too-long": ({"tcp_keep_alive_interval": "1d"}, "$.tcp_keep_alive_interval", ("9h6m7s",)),
    "duration-too-short": ({"tcp_keep_alive_interval": "300ms"}, "$.tcp_keep_alive_interval", ("from 1s",)),
    "udp-timeout": ({"udp_timeout": "5m"}, "$.udp_timeout", ("udp_timeout", "never UDP")),
    "udp-fragment": ({"udp_fragment": True}, "$.udp_fragment", ("left out", "never UDP")),
    "sniff": ({"sniff": True}, "$.sniff", ("sniffing",)),
    "domain-strategy": ({"domain_strategy": "prefer_ipv4"}, "$.domain_strategy", ("left out",)),
    "proxy-protocol": ({"proxy_protocol": True}, "$.proxy_protocol", ("nginx",)),
    "credential-of-a-user": (
        {"users": [{**ALICE, "credential": "a"}]},
        "$.users[0].credential",
        ('unknown tag "a"', "the tag of a credential: default"),
    ),
    "path-number": ({"credential_path": 5}, "$.credential_path", ("found 5", "a path")),
    "path-with-nul": ({"usages_path": "a\0b"}, "$.usages_path", ("a path",)),
    "users-object": ({"users": {"alice": SECRET}}, "$.users", ("an object", "a list of users")),
    "users-text": ({"users": [SECRET]}, "$.users[0]", ("a string (not shown)", "an object")),
    "user-without-name": ({"users": [{"token": SECRET}]}, "$.users[0].name", ("nothing", "a name")),
    "user-without-token": ({"users": [{"name": "alice"}]}, "$.users[0].token", ("nothing", "a token")),
    "user-name-empty": ({"users": [{**ALICE, "name": ""}]}, "$.users[0].name", ("empty name",)),
    "user-name-long": ({"users": [{**ALICE, "name": "a" * 65}]}, "$.users[0].name", ("65 characters", "at most 64")),
    "user-name-control": ({"users": [{**ALICE, "name": "a\nb"}]}, "$.users[0].name", ("control characters",)),
    "user-name-twice": (
        {"users": [ALICE, {**ALICE, "token": "other"}]},
        "$.users[1].name",
        ("same name as $.users[0].name", "no other user"),
    ),
    "token-empty": ({"users": [{"name": "alice", "token": ""}]}, "$.users[0].token", ("empty token",)),
    "token-number": ({"users": [{"name": "alice", "token": 12345}]}, "$.users[0].token", ("not shown", "a token")),
    "token-with-space": (
        {"users": [{"name": "alice", "token": f"{SECRET} x"}]},
        "$.users[0].token",
        ("not shown", "without spaces"),
    ),
    "token-twice": (
        {"users": [{"name": "a", "token": SECRET}, {"name": "b", "token": SECRET}]},
        "$.users[1].token",
        ("same token as $.users[0].token",),
    ),
    "models-text": ({"users": [{**ALICE, "models": "gpt-*"}]}, "$.users[0].models", ("a list of patterns",)),
    "models-number": ({"users": [{**ALICE, "models": [5]}]}, "$.users[0].models[0]", ("a string",)),
    "models-empty": ({"users": [{**ALICE, "models": [""]}]}, "$.users[0].models[0]", ("empty pattern", "gpt-*")),
    "expiry-no-time": ({"users": [{**ALICE, "expires_at": "soon"}]}, "$.users[0].expires_at", ('"soon"', "zone")),
    "expiry-without-zone": (
        {"users": [{**ALICE, "expires_at": "2027-01-31T00:00:00"}]},
        "$.users[0].expires_at",
        ("no time zone", "2027-01-31T00:00:00Z"),
    ),
    "expiry-number": ({"users": [{**ALICE, "expires_at": 1800000000}]}, "$.users[0].expires_at", ("zone",)),
    "concurrency-zero": ({"users": [{**ALICE, "max_concurrent": 0}]}, "$.users[0].max_concurrent", ("at least 1",)),
    "limit-window": (limits(per="year", usd=1), "$.users[0].limits[0].per", ('"5h", "day", "week" or "month"',)),
    "limit-without-window": (limits(usd=1), "$.users[0].limits[0].per", ("nothing", '"5h"')),
    "limit-of-nothing": (limits(per="day"), "$.users[0].limits[0]", ("without a measure", "requests, tokens, usd")),
    "limit-percent": (limits(per="5h", percent=101), "$.users[0].limits[0].percent", ("101", "percentage")),
    "limit-usd-zero": (limits(per="5h", usd=0), "$.users[0].limits[0].usd", ("more than 0",)),
    "limit-usd-text": (limits(per="5h", usd="5"), "$.users[0].limits[0].usd", ('the string "5"', "amount in USD")),
    "limit-usd-nan": ('{"users": [{"name": "a", "token": "t", "limits": [{"per": "5h", "usd": NaN}]}]}',
                      "$.users[0].limits[0].usd", ("nan", "amount in USD")),
    "limit-requests-zero": (limits(per="day", requests=0), "$.users[0].limits[0].requests", ("at least 1",)),
    "limit-key": (limits(per="day", token=5, usd=1), "$.users[0].limits[0].token", ("did you mean tokens?",)),
    "log-format": ({"log_format": "xml"}, "$.log_format", ('"xml"', '"text" or "json"')),
    "metrics-token": ({"metrics_token": f"{SECRET} x"}, "$.metrics_token", ("not shown", "without spaces")),
    "metrics-token-of-a-user": (
        {"users": [{"name": "a", "token": SECRET}], "metrics_token": SECRET},
        "$.metrics_token",
        ("same token as $.users[0].token", "no user has"),
    ),
    "headers-list": ({"headers": ["X-A"]}, "$.headers", ("a list", "field names")),
    "header-name": ({"headers": {"X A": "1"}}, '$.headers["X A"]', ("name of a header field",)),
    "header-hop-by-hop": ({"headers": {"Keep-Alive": "1"}}, '$.headers["Keep-Alive"]', ("hop-by-hop",)),
    "header-length": ({"headers": {"content-length": "1"}}, '$.headers["content-length"]', ("derived from the body",)),
    "header-host": ({"headers": {"Host": "x"}}, "$.headers.Host", ("base URL",)),
    "header-value-line-break": ({"headers": {"X-A": f"{SECRET}\r\nB: 1"}}, '$.headers["X-A"]', ("line breaks",)),
    "header-value-not-latin": ({"headers": {"X-A": "€"}}, '$.headers["X-A"]', ("Latin-1",)),
    "header-value-number": ({"headers": {"X-A": ["a", 2]}}, '$.headers["X-A"]', ("a list of strings",)),
    "header-twice": ({"headers": {"X-A": "1", "x-a": "2"}}, '$.headers["x-a"]', ("X-A again", "case")),
    "detour-unknown": ({**outbound(), "detour": "wrap"}, "$.detour", ('unknown tag "wrap"', "did you mean warp?")),
    "detour-without-outbounds": ({"detour": "direct"}, "$.detour", ("unknown tag", "outbounds", "socks5h://")),
    "detour-ambiguous": ({"detour": "warp", "outbounds": [SOCKS, SOCKS]}, "$.detour", ("2 outbounds",)),
    "detour-scheme": ({"detour": f"ftp://u:{SECRET}@x"}, "$.detour", ("scheme ftp", "socks5h")),
    "detour-url-path": ({"detour": f"http://u:{SECRET}@x/y"}, "$.detour", ("not shown", "proxy URL")),
    "detour-url-port": ({"detour": f"http://u:{SECRET}@x:99999"}, "$.detour", ("not shown", "proxy URL")),
    "detour-number": ({"detour": 5}, "$.detour", ("a number (not shown)", "proxy URL")),
    "outbound-type": (outbound(type="vmess"), "$.outbounds[0].type", ('"vmess"', '"direct", "socks" or "http"')),
    "outbound-server": (outbound(server=None), "$.outbounds[0].server", ("host name",)),
    "outbound-port": (outbound(server_port="1080"), "$.outbounds[0].server_port", ("from 1 to 65535",)),
    "outbound-version": (outbound(version="6"), "$.outbounds[0].version", ('"6"', '"4a"')),
    "outbound-version-list": (outbound(version=["5"]), "$.outbounds[0].version", ('"4a"',)),
    "outbound-tls-enabled": (
        outbound(type="http", tls={"enabled": "yes"}),
        "$.outbounds[0].tls.enabled",
        ("true or false",),
    ),
    "detour-without-scheme": ({"detour": f"u:{SECRET}@x:1"}, "$.detour", ("unknown tag (not shown)",)),
    "path-with-half-a-character": ('{"usages_path": "\\ud800"}', "$.usages_path", ("a path",)),
    "outbound-dial-field": (outbound(bind_interface="eth0"), "$.outbounds[0].bind_interface", ("not supported",)),
    "outbound-network-udp": (outbound(network="udp"), "$.outbounds[0].network", ("not supported",)),
    "outbound-chain": (outbound(type="direct", detour="x"), "$.outbounds[0].server", ("not supported",)),
    "outbound-socks4-password": (
        outbound(version="4", username="u", password=SECRET),
        "$.outbounds[0].password",
        ("SOCKS4", "not shown"),
    ),
    "outbound-password-number": (outbound(password=123456), "$.outbounds[0].password", ("a string", "not shown")),
    "outbound-http-path": (outbound(type="http", path="/x"), "$.outbounds[0].path", ("not supported",)),
    "outbound-tls-insecure": (
        outbound(type="http", tls={"enabled": True, "insecure": True}),
        "$.outbounds[0].tls.insecure",
        ("verified",),
    ),
    "tls-key-number": ({"tls": {"key": 12345}}, "$.tls.key", ("a number (not shown)", "PEM")),
    "tls-text": ({"tls": "on"}, "$.tls", ('the string "on"', "TLS settings")),
    "tls-unknown-key": ({"tls": {"cert": "x"}}, "$.tls.cert", ("unknown key", "one of enabled")),
    "tls-old-version": ({"tls": {"min_version": "1.0"}}, "$.tls.min_version", ('"1.0"', "RFC 8996")),
    "tls-no-version": ({"tls": {"max_version": "2"}}, "$.tls.max_version", ('"1.2" or "1.3"',)),
    "tls-cipher": ({"tls": {"cipher_suites": ["RC4"]}}, "$.tls.cipher_suites", ('"RC4"', "sing-box")),
    "tls-alpn": ({"tls": {"alpn": ["h2", "http/1.1"]}}, "$.tls.alpn", ('"h2"', "nginx")),
    "tls-clients-unverified": (
        {"tls": {"client_authentication": "require-any"}},
        "$.tls.client_authentication",
        ("cannot request certificates without verifying",),
    ),
    "tls-clients-unknown": (
        {"tls": {"client_authentication": "maybe"}},
        "$.tls.client_authentication",
        ('"verify-if-given"',),
    ),
    "certificate-text": ({"certificate": "x"}, "$.certificate", ("an object",)),
    "certificate-store-chrome": ({"certificate": {"store": "chrome"}}, "$.certificate.store", ('"mozilla"',)),
    "certificate-store": ({"certificate": {"store": "mine"}}, "$.certificate.store", ('"mozilla" or "none"',)),
    "certificate-nobody": ({"certificate": {"store": "none"}}, "$.certificate", ("trusts no certificate",)),
    "certificate-missing": (
        {"certificate": {"certificate_path": "nowhere.pem"}},
        "$.certificate.certificate_path",
        ("nowhere.pem", "No such file"),
    ),
    "certificate-folder-missing": (
        {"certificate": {"certificate_directory_path": ["nowhere"]}},
        "$.certificate.certificate_directory_path",
        ("nowhere", "No such file"),
    ),
    "certificate-inline": ({"certificate": {"certificate": ["x"]}}, "$.certificate.certificate", ("PEM",)),
    "certificate-key": ({"certificate": {"certificate_paths": "x"}}, "$.certificate.certificate_paths", ("mean cert",)),
    "base-url-scheme": ({"api_base_url": "ftp://x"}, "$.api_base_url", ('"ftp://x"', "http or https")),
    "base-url-host": ({"api_base_url": "https:///x"}, "$.api_base_url", ("http or https",)),
    "base-url-query": ({"auth_base_url": "https://x/?a=1"}, "$.auth_base_url", ("query",)),
    "base-url-fragment": ({"auth_base_url": "https://x/#a"}, "$.auth_base_url", ("fragment",)),
    "base-url-password": (
        {"chatgpt_base_url": f"https://u:{SECRET}@x"},
        "$.chatgpt_base_url",
        ("without user name and password",),
    ),
    "base-url-of-all": (
        {"chatgpt_base_url": "https://chatgpt.com/backend-api/"},
        "$.chatgpt_base_url",
        ("https://chatgpt.com/backend-api/codex; one level above it, every user could read the owner's conversations",),
    ),
    "base-url-port": ({"api_base_url": "https://x:99999"}, "$.api_base_url", ("not a URL",)),
    "database-url-driver": (
        {"database_url": f"postgresql+asyncpg://u:{SECRET}@x/y"},
        "$.database_url",
        ("needs the package asyncpg, which is not installed", "pip install 'ocm-wsgi[postgresql]'"),
    ),
    "database-url-dialect": ({"database_url": f"postgresql+no://u:{SECRET}@x/y"}, "$.database_url", ("not shown",)),
    "database-url-port": ({"database_url": f"postgresql://u:{SECRET}@x:y/z"}, "$.database_url", ("not shown",)),
    "database-url": ({"database_url": f"mysql://u:{SECRET}@x/y"}, "$.database_url", ("not shown", "postgresql://")),
    "reserve-range": ({"reserve_5h": 101}, "$.reserve_5h", ("101", "0 to 100")),
    "reserve-fraction": ({"reserve_weekly": 0.5}, "$.reserve_weekly", ("0.5", "whole percentage")),
    "price-negative": (
        {"prices": {"gpt-x": {"input": -1, "cached_input": 0, "output": 0}}},
        '$.prices["gpt-x"].input',
        ("found -1", "0 or more"),
    ),
    "price-missing": ({"prices": {"m": {"input": 1, "output": 1}}}, "$.prices.m.cached_input", ("nothing", "USD")),
    "price-text": (
        {"prices": {"m": {"input": "1", "cached_input": 1, "output": 1}}},
        "$.prices.m.input",
        ('the string "1"', "USD"),
    ),
    "price-number": ({"prices": {"m": 5}}, "$.prices.m", ("a number", "an object")),
    "extra-endpoints-object": ({"extra_endpoints": {}}, "$.extra_endpoints", ("an object", "a list of endpoints")),
    "extra-endpoint-method": (extra(method="TRACE"), "$.extra_endpoints[0].method", ('"TRACE"', '"POST"')),
    "extra-endpoint-users": (extra(users="alice"), "$.extra_endpoints[0].users", ('"alice"', '"admins" or "all"')),
    "extra-endpoint-counted": (extra(counted="no"), "$.extra_endpoints[0].counted", ("true or false",)),
    "extra-endpoint-key": (extra(admin=True), "$.extra_endpoints[0].admin", ("unknown key", "one of method")),
    "extra-endpoint-pathless": ({"extra_endpoints": [{"method": "GET"}]}, "$.extra_endpoints[0].path", ("nothing",)),
    "extra-endpoint-path": (extra(path="alpha/notes"), "$.extra_endpoints[0].path", ('"alpha/notes"', "/v1/alpha")),
    "extra-endpoint-of-all": (extra(path="/v1/{any}"), "$.extra_endpoints[0].path", ("after the first",)),
    "extra-endpoint-outside": (extra(path="/v1/a/../b"), "$.extra_endpoints[0].path", ("words",)),
    "extra-endpoint-slash": (extra(path="/v1/a/"), "$.extra_endpoints[0].path", ("words",)),
    "extra-endpoint-query": (extra(path="/v1/a?b"), "$.extra_endpoints[0].path", ("words",)),
    "extra-endpoint-keys": (
        extra(path="/v1/realtime/client_secrets"),
        "$.extra_endpoints[0].path",
        ("makes no keys", "past this service"),
    ),
    "extra-endpoint-organization": (
        extra(path="/v1/Organization/{id}/x"),
        "$.extra_endpoints[0].path",
        ("makes no keys",),
    ),
    "extra-endpoint-built-in": (
        extra(method="POST", path="/v1/responses"), "$.extra_endpoints[0]", ("POST /v1/responses", "not relayed anyway")
    ),
    "extra-endpoint-twice": (
        {"extra_endpoints": [EXTRA, {**EXTRA, "path": "/v1/alpha/notes/{id}", "users": "all"}]},
        "$.extra_endpoints[1]",
        ("the same endpoint as $.extra_endpoints[0]",),
    ),
    "origin-path": ({"allow_origins": ["https://x/y"]}, "$.allow_origins[0]", ("https://app.example.org",)),
    "origin-null": ({"allow_origins": ["*", "null"]}, "$.allow_origins[1]", ("as browsers send it",)),
    "origin-text": ({"allow_origins": "https://x"}, "$.allow_origins", ("a list of origins",)),
    "body-size": ({"max_body_bytes": 0}, "$.max_body_bytes", ("at least 1",)),
}  # fmt: skip


@pytest.mark.parametrize(("document", "where", "words"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_load_names_place_and_remedy(tmp_path: Path, document: Any, where: str, words: tuple[str, ...]) -> None:
    """Each problem is reported with its exact path and a remedy, and never with a secret."""
    problems = problems_in(tmp_path, document)
    assert where in [problem.where for problem in problems]
    text = next(str(problem) for problem in problems if problem.where == where)
    assert [word for word in words if word not in text] == [], text
    assert SECRET not in "".join(map(str, problems))


ENVIRONMENT_PROBLEMS: dict[str, tuple[dict[str, str], str, tuple[str, ...]]] = {
    "port": ({"OCM_LISTEN_PORT": "http"}, "OCM_LISTEN_PORT", ('"http"', "0 to 65535")),
    "port-range": ({"OCM_LISTEN_PORT": "70000"}, "OCM_LISTEN_PORT", ("70000", "0 to 65535")),
    "flag": ({"OCM_REUSE_ADDR": "maybe"}, "OCM_REUSE_ADDR", ("true or false",)),
    "duration": ({"OCM_TCP_KEEP_ALIVE": "5"}, "OCM_TCP_KEEP_ALIVE", ("unit",)),
    "detour": ({"OCM_DETOUR": "warp"}, "OCM_DETOUR", ("unknown tag",)),
    "structured": ({"OCM_USERS": SECRET}, "OCM_USERS", ("users in the file or in the one that OCM_USERS_FILE names",)),
    "certificate": ({"OCM_CERTIFICATE": "x"}, "OCM_CERTIFICATE", ("in the file only",)),
    "typo": ({"OCM_LISTEN_PROT": "1"}, "OCM_LISTEN_PROT", ("did you mean OCM_LISTEN_PORT?",)),
    "typo-in-the-file": ({"OCM_CONFIGS": "x"}, "OCM_CONFIGS", ("did you mean OCM_CONFIG?",)),
    "lower-case": ({"OCM_Listen_Port": "1"}, "OCM_Listen_Port", ("did you mean OCM_LISTEN_PORT?",)),
    "no-file": ({"OCM_CONFIG": "nowhere.json"}, "OCM_CONFIG", ("nowhere.json", "No such file")),
    "database": ({"OCM_DATABASE_URL": SECRET}, "OCM_DATABASE_URL", ("not shown", "SQLAlchemy")),
    "certificates": ({"SSL_CERT_FILE": "/nowhere.pem"}, "SSL_CERT_FILE", ("/nowhere.pem", "No such file")),
}


@pytest.mark.parametrize(("environ", "where", "words"), ENVIRONMENT_PROBLEMS.values(), ids=ENVIRONMENT_PROBLEMS.keys())
def test_load_names_the_variable(tmp_path: Path, environ: dict[str, str], where: str, words: tuple[str, ...]) -> None:
    """A problem in the environment is reported with the variable's name and a remedy."""
    problems = problems_in(tmp_path, {}, **environ)
    assert [problem.where for problem in problems] == [where]
    assert [word for word in words if word not in str(problems[0])] == [], str(problems[0])
    assert SECRET not in str(problems[0])


def test_load_reports_all_problems_together(tmp_path: Path) -> None:
    """Problems in file and environment are reported together, even those that a variable would override."""
    document = {
        "listen": "nowhere",
        "listen_port": "8080",
        "users": [{"name": "a", "token": "t"}, {"name": "a"}],
        "detour": "missing",
        "tls": {"enabled": True, "min_version": "1.3", "max_version": "1.2"},
        "certificate": {"store": "none"},
    }
    places = [m.where for m in problems_in(tmp_path, document, OCM_LISTEN_PORT="1", OCM_RESERVE_5H="x", OCM_LISTN="y")]
    assert sorted(places) == [
        "$.certificate",
        "$.detour",
        "$.listen",
        "$.listen_port",
        "$.tls",
        "$.tls",
        "$.tls.min_version",
        "$.users[1].name",
        "$.users[1].token",
        "OCM_LISTN",
        "OCM_RESERVE_5H",
    ]


KNOWN_KEYS = sorted({*Config.model_fields, *TLS.model_fields, *UserConfig.model_fields, *Certificate.model_fields})
MORE_KEYS = ["services", "outbounds", "type", "tag", "server", "server_port", "version", "per", "usd", "input", "acme"]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "ocm", "socks", "1s", "\0", "5h"])
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KNOWN_KEYS + MORE_KEYS), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KNOWN_KEYS + MORE_KEYS), DOCUMENTS, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_load_survives_any_document(tmp_path: Path, document: dict[str, Any]) -> None:
    """Whatever the values of known keys, the document is valid or has problems with locations; nothing crashes."""
    assert all(problem.where.startswith(("$", "line")) for problem in problems_in(tmp_path, document))


def test_load_counts_problems_and_names_the_file(tmp_path: Path) -> None:
    """The error's message counts the problems and names the file."""
    (tmp_path / "ocm.json").write_text('{"listen_port": -1, "listen": 5}')
    with pytest.raises(ConfigurationError, match=rf"^2 problems in the configuration \({tmp_path}/ocm.json\):\n  \$"):
        load(environ={"HOME": str(tmp_path)}, cwd=tmp_path)


def test_load_refuses_a_file_that_is_not_text(tmp_path: Path) -> None:
    """A file in another encoding is reported as such."""
    (tmp_path / "ocm.json").write_bytes(b'{"listen": "\xff"}')
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        load(environ={"HOME": str(tmp_path)}, cwd=tmp_path)
