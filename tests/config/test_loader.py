"""The result of loading a valid configuration."""

from __future__ import annotations

import json
import os
import pwd
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from ocm_wsgi.config import Config, load, scalar_keys
from ocm_wsgi.errors import ConfigurationError

SECRET = "sk-ocm-very-secret"


def loaded(folder: Path, document: Any = None, **environ: str) -> Config:
    """Return the configuration of a document (text verbatim, anything else as JSON)."""
    if document is not None:
        text = document if isinstance(document, str) else json.dumps(document)
        (folder / "ocm.json").write_text(text, encoding="utf-8")
    return load(environ={"HOME": str(folder), **environ}, cwd=folder)


def test_load_without_file_gives_defaults(tmp_path: Path) -> None:
    """Without any settings the documented defaults apply."""
    config = loaded(tmp_path)
    assert config.source == "defaults"
    assert (config.listen, config.listen_port) == ("127.0.0.1", 8080)
    assert config.credential_path == tmp_path / ".codex/auth.json"
    assert config.state_path == tmp_path / ".local/state/ocm"
    assert config.database_url == f"sqlite:///{tmp_path}/.local/state/ocm/ocm.db"
    assert (config.tcp_keep_alive, config.tcp_keep_alive_interval) == (timedelta(minutes=5), timedelta(seconds=75))
    assert (config.users, config.headers, config.prices, config.warnings) == ((), {}, {}, ())
    assert (config.usages_path, config.proxy_url, config.tls) == (None, None, None)
    assert config.chatgpt_base_url == "https://chatgpt.com/backend-api/codex"
    assert (config.api_base_url, config.auth_base_url) == ("https://api.openai.com", "https://auth.openai.com")
    assert (config.reserve_5h, config.reserve_weekly, config.max_body_bytes) == (0, 0, 134217728)


WHOLE = r"""
{
  "log": {"level": "info"}, # a sing-box file, "as it is"
  "dns": {"servers": []},
  "services": [
    {"type": "resolved", "listen": "::", "listen_port": 53},
    {
      "type": "ocm", "tag": "codex",
      "listen": "::1",
      "listen_port": 8088, // both kinds of comment
      "tcp_fast_open": true, "udp_timeout": "", "sniff": false, "credential_path": "",
      /* and
         this one */
      "users": [{"name": "alice", "token": "sk-ocm-#1",},],
      "headers": {"X-One": "1", "X-Many": ["a", "b"], "X-None": []},
      "detour": "warp",
      "tls": {"enabled": false, "server_name": "", "acme": {"domain": ["example.org"]}},
    },
  ],
  "outbounds": [{"type": "socks", "tag": "warp", "server": "127.0.0.1", "server_port": 40000}],
  "certificate": {"store": "mozilla"},
}
"""


def test_load_accepts_a_sing_box_file_unchanged(tmp_path: Path) -> None:
    """A whole sing-box configuration works, with its comments and commas; keys that are off are ignored."""
    config = loaded(tmp_path, WHOLE)
    assert config.source == str(tmp_path / "ocm.json")
    assert (config.listen, config.listen_port, config.tcp_fast_open) == ("::1", 8088, True)
    assert [(user.name, user.token.get_secret_value()) for user in config.users] == [("alice", "sk-ocm-#1")]
    assert config.headers == {"X-One": ("1",), "X-Many": ("a", "b"), "X-None": ()}
    assert config.proxy_url is not None
    assert config.proxy_url.get_secret_value() == "socks5h://127.0.0.1:40000"
    assert config.certificate.store == "mozilla"
    assert config.credential_path == tmp_path / ".codex/auth.json"
    assert config.tls is None


def test_load_accepts_the_entry_alone(tmp_path: Path) -> None:
    """The entry may be the whole file, with outbounds and certificate in it."""
    config = loaded(
        tmp_path,
        {
            "type": "ocm",
            "listen_port": 1,
            "detour": "d",
            "outbounds": [{"type": "direct", "tag": "d"}],
            "usages_path": None,
        },
    )
    assert (config.listen_port, config.proxy_url, config.usages_path) == (1, None, None)


def test_load_reads_users(tmp_path: Path) -> None:
    """Every key of a user is converted to its type."""
    user = {
        "name": "alice",
        "token": SECRET,
        "admin": True,
        "models": ["gpt-*", "o3"],
        "limits": [{"per": "5h", "percent": 12.5}, {"per": "month", "usd": 20, "tokens": 5, "requests": 6}],
        "expires_at": "2027-01-31T00:00:00Z",
        "max_concurrent": 3,
        "disabled": True,
    }
    (alice,) = loaded(tmp_path, {"users": [user]}).users
    assert (alice.admin, alice.models, alice.max_concurrent, alice.disabled) == (True, ("gpt-*", "o3"), 3, True)
    assert alice.expires_at == datetime(2027, 1, 31, tzinfo=timezone.utc)
    assert (alice.limits[0].per, alice.limits[0].percent, alice.limits[0].usd) == ("5h", Decimal("12.5"), None)
    month = alice.limits[1]
    assert (month.per, month.usd, month.tokens, month.requests) == ("month", Decimal(20), 5, 6)


def test_load_reads_prices_exactly(tmp_path: Path) -> None:
    """A price is exactly the decimal in the file, not the nearest binary fraction."""
    config = loaded(tmp_path, '{"prices": {"gpt-x": {"input": 1.10, "cached_input": 0, "output": 0.30}}}')
    assert (config.prices["gpt-x"].input, config.prices["gpt-x"].output) == (Decimal("1.10"), Decimal("0.30"))


def test_load_environment_overrides_file(tmp_path: Path) -> None:
    """A variable overrides its key in the file; the rest of the file still applies."""
    config = loaded(tmp_path, {"listen_port": 1, "listen": "::1"}, OCM_LISTEN_PORT="2", OCM_DETOUR="http://p:3128")
    assert (config.listen, config.listen_port) == ("::1", 2)
    assert config.proxy_url is not None
    assert config.proxy_url.get_secret_value() == "http://p:3128"


# Text in the environment, and the attribute's resulting value.
VARIABLES: dict[str, tuple[str, Any]] = {
    "listen": ("0.0.0.0", "0.0.0.0"),
    "listen_port": (" 81 ", 81),
    "bind_interface": ("lo", "lo"),
    "routing_mark": ("0x1f", 31),
    "reuse_addr": ("yes", True),
    "netns": ("blue", "blue"),
    "tcp_fast_open": ("1", True),
    "tcp_multi_path": ("TRUE", True),
    "disable_tcp_keep_alive": ("on", True),
    "tcp_keep_alive": ("1h30m", timedelta(minutes=90)),
    "tcp_keep_alive_interval": ("1.5s", timedelta(seconds=1.5)),
    "credential_path": ("/c/auth.json", Path("/c/auth.json")),
    "usages_path": ("/u.json", Path("/u.json")),
    "detour": ("http://p", None),
    "state_path": ("/s", Path("/s")),
    "database_url": ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
    "chatgpt_base_url": ("http://127.0.0.1:1/backend-api/codex/", "http://127.0.0.1:1/backend-api/codex"),
    "api_base_url": ("http://[::1]:1", "http://[::1]:1"),
    "auth_base_url": ("https://a/", "https://a"),
    "reserve_5h": ("0", 0),
    "reserve_weekly": ("100", 100),
    "max_body_bytes": ("1", 1),
    "log_format": ("json", "json"),
    "metrics_token": ("12345", SecretStr("12345")),
}


@pytest.mark.parametrize("key", scalar_keys())
def test_load_reads_every_scalar_from_environment(tmp_path: Path, key: str) -> None:
    """Every key that holds a single value can be set by its variable, from text."""
    text, value = VARIABLES[key]
    config = loaded(tmp_path, None, **{f"OCM_{key.upper()}": text})
    assert key == "detour" or getattr(config, key) == value


def test_load_ignores_empty_variables(tmp_path: Path) -> None:
    """An empty variable counts as unset."""
    assert loaded(tmp_path, {"listen_port": 5}, OCM_LISTEN_PORT="", OCM_CONFIG="").listen_port == 5


def test_load_warns_about_unrelated_variables(tmp_path: Path) -> None:
    """Variables that Kubernetes sets for a service named ocm cause warnings and do not prevent startup."""
    unrelated = ("OCM_PORT", "OCM_PORT_8080_TCP_ADDR", "OCM_SERVICE_HOST", "OCM_SERVICE_PORT")
    warnings = loaded(tmp_path, None, **dict.fromkeys(unrelated, "tcp://10.0.0.1:8080")).warnings
    assert [warning.split()[0] for warning in warnings] == list(unrelated)


def outbound(**members: Any) -> dict[str, Any]:
    """Return an entry with a detour through an outbound with these members."""
    return {"detour": "d", "outbounds": [{"type": "block", "tag": "x"}, {"tag": "d", **members}]}


SOCKS = {"type": "socks", "server": "proxy.example", "server_port": 1080}
HTTP = {"type": "http", "server": "::1", "server_port": 3128}


@pytest.mark.parametrize(
    ("document", "url"),
    [
        pytest.param(outbound(type="direct", udp_fragment=True), None, id="direct"),
        pytest.param(outbound(**SOCKS), "socks5h://proxy.example:1080", id="socks"),
        pytest.param(outbound(**SOCKS, version="4a"), "socks4a://proxy.example:1080", id="socks4a"),
        pytest.param(outbound(**SOCKS, version="4", username="u"), "socks4://u@proxy.example:1080", id="socks4"),
        pytest.param(
            outbound(**SOCKS, username="a@b", password="p:/ä"),
            "socks5h://a%40b:p%3A%2F%C3%A4@proxy.example:1080",
            id="socks-password",
        ),
        pytest.param(outbound(**SOCKS, network="tcp", udp_over_tcp=True), "socks5h://proxy.example:1080", id="udp"),
        pytest.param(outbound(**HTTP), "http://[::1]:3128", id="http"),
        pytest.param(outbound(**HTTP, tls={"enabled": True, "server_name": "::1"}), "https://[::1]:3128", id="https"),
        pytest.param(outbound(**HTTP, tls={"enabled": False, "insecure": True}), "http://[::1]:3128", id="tls-off"),
        pytest.param({"detour": "socks5h://u:p@[::1]:1080/"}, "socks5h://u:p@[::1]:1080", id="url"),
        pytest.param({"detour": ""}, None, id="empty"),
    ],
)
def test_load_resolves_the_detour(tmp_path: Path, document: Any, url: str | None) -> None:
    """A detour is resolved to one proxy URL."""
    proxy_url = loaded(tmp_path, document).proxy_url
    assert (proxy_url.get_secret_value() if proxy_url else None) == url


def test_load_finds_paths(tmp_path: Path) -> None:
    """Paths are relative to the working directory, ~ is the home folder, and CODEX_HOME moves the credential."""
    work = tmp_path / "work"
    work.mkdir()
    config = loaded(
        work,
        {"usages_path": "u.json", "state_path": "~/s"},
        HOME=str(tmp_path),
        CODEX_HOME="/codex",
    )
    assert config.usages_path == tmp_path / "work/u.json"
    assert config.state_path == tmp_path / "s"
    assert config.database_url == f"sqlite:///{tmp_path}/s/ocm.db"
    assert config.credential_path == Path("/codex/auth.json")


def test_load_follows_xdg_and_sudo(tmp_path: Path) -> None:
    """State follows XDG_STATE_HOME; under sudo the credential, but not the state, is that of the invoking user."""
    someone = pwd.getpwuid(os.getuid())
    config = loaded(tmp_path, None, XDG_STATE_HOME="/xdg", SUDO_USER=someone.pw_name)
    assert config.state_path == Path("/xdg/ocm")
    assert config.credential_path == Path(someone.pw_dir) / ".codex/auth.json"
    assert loaded(tmp_path, None, SUDO_USER="no-such-user").credential_path == tmp_path / ".codex/auth.json"


def test_load_reads_the_named_file(tmp_path: Path) -> None:
    """If OCM_CONFIG names a file, ./ocm.json is not read."""
    (tmp_path / "other.json").write_text('{"listen_port": 7}')
    config = loaded(tmp_path, {"listen_port": 6}, OCM_CONFIG="other.json")
    assert (config.listen_port, config.source) == (7, str(tmp_path / "other.json"))


def test_config_shows_no_secrets(tmp_path: Path) -> None:
    """No token, proxy password, database password or header value is in the configuration's repr."""
    config = loaded(
        tmp_path,
        {
            "users": [{"name": "alice", "token": SECRET}],
            "detour": f"http://u:{SECRET}@p",
            "database_url": f"postgresql+psycopg://u:{SECRET}@h/d",
            "headers": {"X-Key": SECRET},
        },
    )
    assert SECRET not in repr(config) + str(config)


def test_config_cannot_be_changed(tmp_path: Path) -> None:
    """The configuration is immutable."""
    with pytest.raises(ValidationError):
        loaded(tmp_path).listen_port = 1


def test_load_without_home_requires_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home folder the error names the variables to set, and setting them works."""

    def no_entry(_key: object) -> object:
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(ConfigurationError) as caught:
        load(environ={}, cwd=tmp_path)
    assert [problem.where for problem in caught.value.problems] == ["OCM_CREDENTIAL_PATH", "OCM_STATE_PATH"]
    assert load(environ={"OCM_CREDENTIAL_PATH": "c", "OCM_STATE_PATH": "s"}, cwd=tmp_path).state_path == tmp_path / "s"
