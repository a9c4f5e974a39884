"""Runs the real Caddy with ``deploy/Caddyfile``, in which the names are filled in as ``ocm deploy caddy`` does."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path, PurePosixPath

import trustme

from ocm_wsgi.deployment import Installation, render
from tests.clients.nginx import LOOPBACK, SERVER_NAME


@dataclass(frozen=True)
class Caddy:
    """A running Caddy.

    :ivar tls: a context that trusts its certificate.
    """

    port: int
    tls: ssl.SSLContext

    def connect(self, *, timeout_seconds: float = 20) -> HTTPSConnection:
        """Return a connection that the caller closes."""
        return HTTPSConnection(SERVER_NAME, self.port, context=self.tls, timeout=timeout_seconds)


@contextmanager
def run_caddy(upstream: str, folder: Path) -> Iterator[Caddy]:
    """Run Caddy in front of `upstream` (``host:port``) until the end of the context.

    Its port is held by a socket that does not listen; Caddy binds with ``SO_REUSEPORT`` as well.

    :param folder: for its configuration, certificate and files.
    """
    authority = trustme.CA()
    leaf = authority.issue_cert(SERVER_NAME)
    leaf.private_key_and_cert_chain_pem.write_to_path(folder / "certificate.pem")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    with ExitStack() as opened:
        reserved = opened.enter_context(socket.socket())
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(LOOPBACK)
        port = reserved.getsockname()[1]
        _write_configuration(upstream, port, folder)
        log = opened.enter_context((folder / "caddy.log").open("wb"))
        process = opened.enter_context(
            subprocess.Popen(
                [program(), "run", "--config", "Caddyfile", "--adapter", "caddyfile"],
                cwd=folder,
                env={"HOME": str(folder), "PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        )
        opened.callback(process.terminate)
        _wait_until_it_serves(process, folder)
        yield Caddy(port, tls)


def program() -> str:
    """Return the path of Caddy."""
    found = shutil.which("caddy")
    assert found, "caddy is not installed: `make test` does it"
    return found


def _write_configuration(upstream: str, port: int, folder: Path) -> None:
    installation = Installation(SERVER_NAME, upstream, PurePosixPath(sys.executable))
    text = render("caddy", installation)
    for found, put in [
        (
            "\tgrace_period 10m\n",
            f"\tgrace_period 1s\n\tadmin off\n\tauto_https disable_redirects\n\thttps_port {port}\n",
        ),
        (f"\n{SERVER_NAME} {{\n", f"\n{SERVER_NAME} {{\n\tbind 127.0.0.1\n\ttls certificate.pem certificate.pem\n"),
    ]:
        assert text.count(found) == 1
        text = text.replace(found, put)
    (folder / "Caddyfile").write_text(text)


def _wait_until_it_serves(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Follow the log until Caddy has begun to serve, or has exited."""
    follow = ["tail", "-n", "+1", "-F", "--pid", str(process.pid), str(folder / "caddy.log")]
    with subprocess.Popen(follow, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        assert tail.stdout is not None
        serves = any(b"serving initial configuration" in line for line in tail.stdout)
        tail.terminate()
    assert serves, (folder / "caddy.log").read_text()
