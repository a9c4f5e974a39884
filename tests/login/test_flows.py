"""The steps of a sign-in with an issuer that refuses, fails or sends garbage; the detour; and Codex with the file."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from ocm_wsgi.credentials.sign_in import wait_for_approval
from ocm_wsgi.errors import LoginFailed
from ocm_wsgi.oauth.authorization import DeviceCode, IssuerClient
from ocm_wsgi.oauth.http_client import ConnectionSettings
from ocm_wsgi.simulator import Plan, Simulator
from tests.proxies import ForwardProxy, Socks5

CODEX = Path(__file__).parents[2] / ".cache/codex/node_modules/.bin/codex"
DEVICE = DeviceCode("http://issuer/codex/device", "ABCD-1234", 5.0, "deviceauth_1")
APPROVED = {"authorization_code": "ac_1", "code_verifier": "verifier"}
Answers = list[tuple[int, Any]]
Refusing = Callable[..., IssuerClient]


@pytest.fixture
def answering() -> Iterator[Refusing]:
    """Return a factory of issuers that send the given responses in order."""
    servers = []

    def answer(*answers: tuple[int, Any]) -> IssuerClient:
        waiting = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                status, body = waiting.pop(0)
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return IssuerClient(ConnectionSettings(ssl.create_default_context()), f"http://127.0.0.1:{server.server_port}")

    yield answer
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


class Clock:
    """Time that passes only by waiting."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def pause(self, seconds: float, _left_seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds

    def approval(self, issuer: IssuerClient) -> Any:
        return wait_for_approval(issuer, DEVICE, pause=self.pause, monotonic=lambda: self.now)


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        pytest.param(404, {}, "device_login_disabled", "--browser", id="not-enabled"),
        pytest.param(429, {}, "too_many", "few minutes", id="too-many"),
        pytest.param(500, b"<html>", "unreachable", "Try again shortly", id="failing"),
        pytest.param(400, {"error": "invalid_client"}, "refused", "a device code", id="refused"),
        pytest.param(200, b"", "misunderstood", "could not be parsed", id="empty"),
        pytest.param(200, {"device_auth_id": "d"}, "misunderstood", "could not be parsed", id="without-code"),
        pytest.param(200, b"[" * 300_000, "unreachable", "cannot be reached", id="too-large"),
    ],
)
def test_device_code_refused(answering: Refusing, status: int, body: Any, code: str, words: str) -> None:
    """Each failure to get a device code has its own message."""
    with pytest.raises(LoginFailed, match=words) as failure:
        answering((status, body)).device_code()
    assert failure.value.code == code


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("7", 7.0), ("0", 1.0), (3, 3.0), ("-1", 1.0), ("86400", 60.0), ("nan", 60.0), ("soon", 5.0), (None, 5.0)],
)
def test_interval(answering: Refusing, interval: Any, seconds: float) -> None:
    """The interval is a string of seconds; an invalid one neither floods the issuer nor stops the login."""
    issuer = answering((200, {"device_auth_id": "d", "usercode": "U", "interval": interval}))
    assert issuer.device_code().interval_seconds == seconds


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        pytest.param(403, {"error": {"code": "access_denied"}}, "denied", id="declined"),
        pytest.param(404, {"error": "expired_token"}, "expired", id="expired"),
        pytest.param(400, {"error": "invalid_request"}, "refused", id="unknown"),
        pytest.param(401, {}, "refused", id="unauthorized"),
        pytest.param(200, {"authorization_code": "ac"}, "misunderstood", id="without-verifier"),
    ],
)
def test_device_login_ends(answering: Refusing, status: int, body: Any, code: str) -> None:
    """A permanent failure ends the waiting immediately."""
    clock = Clock()
    with pytest.raises(LoginFailed) as failure:
        clock.approval(answering((status, body)))
    assert (failure.value.code, clock.pauses) == (code, [])


@pytest.mark.parametrize(
    ("status", "body"),
    [(403, {}), (404, {}), (403, {"error": {"code": "authorization_pending"}}), (500, b""), (502, b"<"), (429, {})],
)
def test_device_login_continues(answering: Refusing, status: int, body: Any) -> None:
    """After a temporary failure, polling continues at the issuer's interval."""
    clock = Clock()
    code = clock.approval(answering((status, body), (status, body), (200, APPROVED)))
    assert (code.code, code.verifier) == ("ac_1", "verifier")
    assert code.redirect_uri.endswith("/deviceauth/callback")
    assert clock.pauses == [5.0, 5.0]


def test_device_login_expires(answering: Refusing) -> None:
    """After 15 minutes the code counts as expired."""
    clock = Clock()
    with pytest.raises(LoginFailed, match="15 minutes") as failure:
        clock.approval(answering(*[(403, {})] * 200))
    assert failure.value.code == "expired"
    assert sum(clock.pauses) == 900.0


def test_unreachable_issuer_is_retried() -> None:
    """If the issuer is unreachable for all of the 15 minutes, the code counts as expired."""
    clock = Clock()
    with pytest.raises(LoginFailed) as failure:
        clock.approval(IssuerClient(ConnectionSettings(ssl.create_default_context()), "http://127.0.0.1:9"))
    assert failure.value.code == "expired"


def test_login_uses_the_detour(owner: Any) -> None:
    """The configured detour is used for every request of a sign-in and a sign-out, and its password is not shown."""
    with ForwardProxy(Socks5).running() as proxy:
        owner.configure(detour=f"socks5h://scout:p%40ss%3Aword@127.0.0.1:{proxy.port}")
        results = [owner.run("login"), owner.run("logout", "--yes")]
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert len(proxy.targets) == len(owner.simulator.requests) == 5
    assert all("p@ss" not in result.stdout + result.stderr for result in results)


def test_token_never_shown_in_repr(simulator: Simulator) -> None:
    """The ``repr`` of intermediate values shows no secret."""
    simulator.device_polls = 0
    issuer = IssuerClient(ConnectionSettings(ssl.create_default_context()), simulator.url)
    device = issuer.device_code()
    code = issuer.poll(device)
    grant = issuer.exchange(code)
    shown = repr(
        (
            ConnectionSettings(issuer.connection.ssl_context, "socks5h://user:secret@proxy"),
            device,
            code,
            grant,
            issuer.authorization_request(),
        )
    )
    assert all(secret not in shown for secret in ("secret", code.code, code.verifier, *grant.tokens().values()))


def test_codex_accepts_the_file(owner: Any, tmp_path: Path) -> None:
    """The real Codex, signed in by us, completes a turn in ChatGPT mode, with our access token and account."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    with Simulator(ssl_context=context) as simulator:
        owner.simulator = simulator
        owner.environment["SSL_CERT_FILE"] = str(trusted)
        owner.configure()
        assert owner.run("login").returncode == 0
        access_token = owner.content()["tokens"]["access_token"]
        simulator.plan(Plan(text="Hello, owner."), path="/backend-api/codex/responses")
        result = run_codex(owner.path.parent, simulator, trusted)
        assert (result.returncode, result.stdout.strip()) == (0, "Hello, owner."), result.stderr
        [turn] = simulator.seen("/backend-api/codex/responses")
        assert turn.field("Authorization") == f"Bearer {access_token}"
        assert turn.field("ChatGPT-Account-Id") == "acct-owner"


def run_codex(home: Path, simulator: Simulator, trusted: Path) -> subprocess.CompletedProcess[str]:
    """Run one turn of Codex in ChatGPT mode, which insists on TLS."""
    assert CODEX.exists(), "Codex is not installed: `make test` does it"
    (home / "config.toml").write_text(f"""
model = "gpt-5.5"
model_provider = "simulated"
chatgpt_base_url = "{simulator.url}/backend-api"
cli_auth_credentials_store = "file"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false

[model_providers.simulated]
name = "simulated"
base_url = "{simulator.chatgpt_base_url}"
wire_api = "responses"
requires_openai_auth = true
request_max_retries = 0
stream_max_retries = 0
""")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CODEX_HOME": str(home),
        "SSL_CERT_FILE": str(trusted),
    }
    command = [str(CODEX), "exec", "--skip-git-repo-check", "--ephemeral", "--sandbox=read-only", "hi"]
    return subprocess.run(
        command,
        cwd=home,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
        start_new_session=True,
    )
