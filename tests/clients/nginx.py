"""Runs the real nginx, unprivileged, with ``deploy/nginx.conf`` in which only names, ports and paths are replaced."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path

import trustme

CONFIGURATION = Path(__file__).parents[2] / "deploy/nginx.conf"
SERVER_NAME = "localhost"
LOOPBACK = ("127.0.0.1", 0)

# Like a distribution's nginx.conf that includes our file, with all paths in one directory. Debian enables gzip.
_MAIN_CONFIGURATION = """
daemon off;
# The user that runs the tests, because no other user can enter the directory.
user {user} {group};
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{}}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    gzip on;
    gzip_types *;
    include {directory}/ocm.conf;
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running nginx.

    :ivar tls: a context that trusts its certificate, whose chain was generated for this run.
    :ivar authority: the root certificate of that chain, for clients that need a file.
    """

    https_port: int
    http_port: int
    tls: ssl.SSLContext
    authority: Path

    @property
    def url(self) -> str:
        """The base URL of the TLS port."""
        return f"https://{SERVER_NAME}:{self.https_port}"

    def own_tls(self) -> ssl.SSLContext:
        """Return a separate context like ``tls``, for clients that modify it, as HTTP/2 clients do."""
        return ssl.create_default_context(cafile=self.authority)

    def threads_tls(self) -> ssl.SSLContext:
        """Return a context for clients that receive in one thread and send in another, as websockets does.

        Without TLS 1.3: its session tickets arrive after the handshake, and what one thread sends while another reads
        them can be lost, since the TLS objects of Python before 3.13 have no lock.
        """
        context = self.own_tls()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def connect(self, *, timeout_seconds: float = 20) -> HTTPSConnection:
        """Return a connection that the caller closes."""
        return HTTPSConnection(SERVER_NAME, self.https_port, context=self.tls, timeout=timeout_seconds)


@contextmanager
def run_nginx(upstream: str, directory: Path, *, edits: Mapping[str, str] | None = None) -> Iterator[Nginx]:
    """Run nginx in front of `upstream` (``host:port``) until the end of the context.

    nginx inherits listening sockets that are opened before it starts, as in a binary upgrade: no other process can take
    the ports, and a client that connects too early waits.

    :param directory: an empty directory for its configuration, certificate, logs and temporary files.
    :param edits: replacements that an owner makes in addition to the lines marked EDIT; each occurs once.
    """
    tls = _write_certificate(directory)
    with socket.create_server(LOOPBACK) as https, socket.create_server(LOOPBACK) as http:
        for listener in (https, http):
            listener.setblocking(False)  # nginx does not set this, and several workers would block in one accept()
        nginx = Nginx(https.getsockname()[1], http.getsockname()[1], tls, directory / "authority.pem")
        _write_configuration(directory, nginx, upstream, edits or {})
        process = subprocess.Popen(
            _command(directory),
            stdin=subprocess.DEVNULL,
            pass_fds=[https.fileno(), http.fileno()],
            env={"NGINX": f"{https.fileno()};{http.fileno()};"},
        )
    with process:
        try:
            yield nginx
        finally:
            process.terminate()


def check_configuration(directory: Path) -> subprocess.CompletedProcess[str]:
    """Run ``nginx -t`` on the configuration that :func:`run_nginx` wrote."""
    return subprocess.run([*_command(directory), "-t"], capture_output=True, text=True, check=False)


def _command(directory: Path) -> list[str]:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "nginx is not installed: `make test` does it"
    return [program, "-p", str(directory), "-c", "nginx.conf", "-e", str(directory / "error.log")]


def _write_certificate(directory: Path) -> ssl.SSLContext:
    """Write a certificate with an intermediate one, as public authorities do; return a context that trusts it."""
    authority = trustme.CA()
    leaf = authority.create_child_ca().issue_cert(SERVER_NAME)
    (directory / "fullchain.pem").write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    (directory / "privkey.pem").write_bytes(leaf.private_key_pem.bytes())
    authority.cert_pem.write_to_path(directory / "authority.pem")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    return tls


def _write_configuration(directory: Path, nginx: Nginx, upstream: str, edits: Mapping[str, str]) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    group = grp.getgrgid(os.getegid()).gr_name
    (directory / "nginx.conf").write_text(_MAIN_CONFIGURATION.format(directory=directory, user=user, group=group))
    text = CONFIGURATION.read_text()
    for found, put, times in [
        ("server 127.0.0.1:8080;", f"server {upstream};", 1),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{nginx.https_port} ssl http2;", 1),
        ("listen 443 ssl http2 default_server;", f"listen 127.0.0.1:{nginx.https_port} ssl http2 default_server;", 1),
        ("listen 80 default_server;", f"listen 127.0.0.1:{nginx.http_port} default_server;", 1),
        ("listen [::]:443 ssl http2 default_server;", "", 1),
        ("listen [::]:80 default_server;", "", 1),
        ("listen 80;", f"listen 127.0.0.1:{nginx.http_port};", 1),
        # Not every test machine has IPv6.
        ("listen [::]:443 ssl http2;", "", 1),
        ("listen [::]:80;", "", 1),
        ("server_name ocm.example.org;", f"server_name {SERVER_NAME};", 2),
        ("/etc/letsencrypt/live/ocm.example.org/", f"{directory}/", 2),
        *((found, put, 1) for found, put in edits.items()),
    ]:
        assert text.count(found) == times, f"{CONFIGURATION.name} has {found!r} {text.count(found)} times, not {times}"
        text = text.replace(found, put)
    (directory / "ocm.conf").write_text(text)
