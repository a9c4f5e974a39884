"""nginx in front of upstream, as the baseline: it relays and does nothing more."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks import wire
from benchmarks.certificates import CERTIFICATE_NAME
from benchmarks.servers import BEARER_TOKEN, WORKERS, Server, ServerFailed, Upstream, open_listener, run_program
from benchmarks.target import Target

NAME = "nginx"

# Like deploy/nginx.conf where it matters here, but with persistent connections to upstream, like the service.
_CONFIGURATION = """\
daemon off;
{user}
worker_processes {workers};
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_body_buffer_size 512k;
    keepalive_requests 1000000;
    map $http_upgrade $upstream_connection {{
        default "Upgrade";
        "" "";
    }}
    upstream openai {{
        server {upstream};
        keepalive 256;
        keepalive_requests 1000000;
    }}
    server {{
        listen {address};
        location = {client_path} {{
            proxy_pass {scheme}://openai{upstream_path};
            proxy_http_version 1.1;
            proxy_set_header Connection $upstream_connection;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Authorization "Bearer {bearer_token}";
            proxy_buffering off;
            proxy_buffer_size 16k;
            proxy_buffers 4 16k;
            proxy_next_upstream off;
            {tls}
        }}
    }}
}}
"""
_TLS = """\
proxy_ssl_verify on;
            proxy_ssl_verify_depth 2;
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_name {name};
            proxy_ssl_server_name on;
"""


@contextlib.contextmanager
def run_nginx(behind: Upstream, folder: Path) -> Iterator[Server]:
    """Run nginx with its own configuration in ``folder``, which must be empty.

    It inherits the open socket, as in an upgrade of its binary.

    :raises ServerFailed: nginx is not installed.
    """
    log = folder / "error.log"
    with open_listener() as listener:
        address = listener.getsockname()
        (folder / "nginx.conf").write_text(_configuration(behind, address, folder))
        command = [_program(), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(log)]
        environment = {"NGINX": f"{listener.fileno()};"}
        with run_program(command, log=folder / "output.log", environment=environment, listener=listener) as tree:
            yield Server(NAME, Target(address, wire.CLIENT_PATH, BEARER_TOKEN), tree, log)


def version() -> str:
    """Return nginx's version, or its output if this contains none."""
    said = subprocess.run([_program(), "-v"], capture_output=True, text=True, check=False).stderr
    found = re.search(r"nginx/(\S+)", said)
    return found[1] if found else said.strip()


def _program() -> str:
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None:
        raise ServerFailed("nginx is not installed. Run apt-get install nginx, or `make bench`, which installs it.")
    return program


def _configuration(behind: Upstream, address: tuple[str, int], folder: Path) -> str:
    tls = ""
    if behind.certificate:
        tls = _TLS.format(authority=behind.certificate.authority, name=CERTIFICATE_NAME)
    return _CONFIGURATION.format(
        user=_user_directive(),
        workers=WORKERS,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        folder=folder,
        upstream=behind.authority,
        address=f"{address[0]}:{address[1]}",
        client_path=wire.CLIENT_PATH,
        scheme=behind.scheme,
        upstream_path=wire.UPSTREAM_PATH,
        bearer_token=BEARER_TOKEN,
        tls=tls,
    )


def _user_directive() -> str:
    """Return the directive that keeps root's workers from switching to a user without access to the folder."""
    if os.geteuid() != 0:
        return ""
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
