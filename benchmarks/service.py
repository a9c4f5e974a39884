"""The service as in production: ``gunicorn wsgi:app`` with its gunicorn.conf.py, a user, and accounting."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import wire
from benchmarks.servers import PROJECT, WORKERS, Server, Upstream, open_listener, run_program
from benchmarks.target import Target
from ocm_wsgi.simulator.issuer import Account, Issuer, credential

NAME = "ocm-wsgi"
_USER = "alice"
_OTHER_USERS = ("bob", "carol")
_TOKEN_LIFETIME_SECONDS = 86400.0


@contextlib.contextmanager
def run_service(behind: Upstream, folder: Path) -> Iterator[Server]:
    """Run the service with a credential that needs no refresh, three users, and its state in ``folder``."""
    tokens = {name: f"sk-ocm-{secrets.token_urlsafe(32)}" for name in (_USER, *_OTHER_USERS)}
    log = folder / "service.log"
    _write(folder / "auth.json", owner_credential())
    _write(folder / "ocm.json", _configuration(behind, folder, tokens))
    with open_listener() as listener:
        command = [
            *(sys.executable, "-m", "gunicorn", "--config", str(PROJECT / "gunicorn.conf.py")),
            # No requests remain when it is stopped.
            *("--bind", f"fd://{listener.fileno()}", "--graceful-timeout", "1", "wsgi:app"),
        ]
        environment = {"OCM_CONFIG": str(folder / "ocm.json"), "WEB_CONCURRENCY": str(WORKERS)}
        address = listener.getsockname()
        with run_program(command, log=log, environment=environment, listener=listener) as tree:
            others = tuple(tokens[name] for name in _OTHER_USERS)
            yield Server(NAME, Target(address, wire.CLIENT_PATH, tokens[_USER], others), tree, log)


def owner_credential() -> dict[str, Any]:
    """Return Codex's credential file, with tokens that need no refresh."""
    owner = Account()
    issuer = "https://auth.openai.com"
    tokens = Issuer(time.time).issue(owner, issuer=issuer, expires_in=_TOKEN_LIFETIME_SECONDS)
    return credential(tokens, owner, issuer=issuer, last_refresh=datetime.now(timezone.utc))


def _configuration(behind: Upstream, folder: Path, tokens: Mapping[str, str]) -> object:
    origin = f"{behind.scheme}://{behind.authority}"
    base_path = wire.UPSTREAM_PATH.rpartition("/")[0]
    return {
        "type": "ocm",
        "credential_path": str(folder / "auth.json"),
        "state_path": str(folder / "state"),
        "usages_path": str(folder / "usages.json"),
        "users": [{"name": name, "token": token} for name, token in tokens.items()],
        "chatgpt_base_url": f"{origin}{base_path}",
        "api_base_url": origin,
        "auth_base_url": origin,
        **({"certificate": {"certificate_path": str(behind.certificate.authority)}} if behind.certificate else {}),
    }


def _write(path: Path, content: object) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=2))
