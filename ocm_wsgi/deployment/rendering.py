"""Fills names into the files of ``deploy/``, in place of the examples there: the files also work as they are.

Reads the files of this package; writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath

from ocm_wsgi.errors import OcmError

#: The file of each kind.
KINDS: Mapping[str, str] = {
    "nginx": "nginx.conf",
    "caddy": "Caddyfile",
    "compose": "compose.yaml",
    "compose-environment": "compose.env",
    "systemd": "ocm.service",
    "socket": "ocm.socket",
    "environment": "ocm.env",
    "command": "ocm",
    "logrotate": "logrotate",
    "prometheus": "prometheus-rules.yml",
    "grafana": "grafana.json",
}

# The names in the files.
_HOST_NAME = "ocm.example.org"
_ADDRESS = "127.0.0.1:8080"
_PROGRAM = "/opt/ocm/.venv/bin/ocm"
# `ProtectHome=yes` and `PrivateTmp=yes` in ocm.service hide these.
_HIDDEN_FOLDERS = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - nothing is written there
# Beside the lines that the owner has to change.
_EDIT = re.compile(r"\s*# EDIT$")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
# RFC 1123 section 2.1, with at least two labels or localhost; the last one is not a number.
_HOST_NAME_PATTERN = re.compile(rf"(?:(?:{_LABEL}\.)+(?![0-9]+$){_LABEL}|localhost)")
_LONGEST_HOST_NAME = 253


class UnusableInstallation(OcmError):
    """The service could not run from where it is installed; the message says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """What differs between installations.

    :ivar host_name: the public one, for clients; ``None`` leaves the example.
    :ivar address: where the service listens, as ``HOST:PORT``.
    :ivar program: the path of ``ocm``.
    """

    host_name: str | None
    address: str
    program: PurePath


def is_host_name(text: str) -> bool:
    """Return whether this is a DNS host name in lower case: not an address, and nothing that a file could obey."""
    return len(text) <= _LONGEST_HOST_NAME and _HOST_NAME_PATTERN.fullmatch(text) is not None


def render(kind: str, installation: Installation) -> str:
    """Return the file of a kind, with the installation's names in place of the examples.

    :param kind: one of :data:`KINDS`.
    :raises UnusableInstallation: the unit could not start the program.
    """
    text = resources.files("ocm_wsgi.deployment").joinpath("files", KINDS[kind]).read_text(encoding="utf-8")
    if kind in ("systemd", "command"):
        text = text.replace(_PROGRAM, _program(installation.program))
    lines = text.replace(_ADDRESS, installation.address).splitlines()
    if installation.host_name is not None:
        lines = [_named(line, installation.host_name) for line in lines]
    return "\n".join([*lines, ""])


def _named(line: str, host_name: str) -> str:
    return _EDIT.sub("", line.replace(_HOST_NAME, host_name)) if _HOST_NAME in line else line


def _program(path: PurePath) -> str:
    """Return the path as both systemd and a shell read it."""
    if str(path).startswith(tuple(f"{folder}/" for folder in _HIDDEN_FOLDERS)):
        raise UnusableInstallation(
            f"The service could not see {path}: home and temporary folders are hidden from it. Install it in /opt/ocm: "
            "python3 -m venv /opt/ocm/.venv && /opt/ocm/.venv/bin/pip install ocm-wsgi"
        )
    if not re.fullmatch(r"[\w./+@-]+", str(path), re.ASCII):
        raise UnusableInstallation(f"{path} cannot be written without quotes. Install it in another folder.")
    return str(path)
