"""sing-box's OCM service with one user and its usage file, in a sing-box that was built with the tag ``with_ocm``."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from benchmarks.others import Kind, Prepared
from benchmarks.servers import BEARER_TOKEN, Upstream
from benchmarks.service import owner_credential

_CONFIGURATION = "config.json"
_DETOUR = "upstream"


def _prepare(behind: Upstream, folder: Path, address: tuple[str, int]) -> Prepared:
    """Write a credential and a configuration. Its upstream is fixed, as ChatMock's, and reached through the tunnels."""
    assert behind.tunnels is not None
    (folder / "auth.json").write_text(json.dumps(owner_credential()))
    (folder / "auth.json").chmod(0o600)
    host, port = behind.tunnels.address
    configuration = {
        "log": {"level": "info"},
        "certificate": {"store": "none", "certificate_path": [str(behind.tunnels.certificate.authority)]},
        "outbounds": [{"type": "http", "tag": _DETOUR, "server": host, "server_port": port}],
        "services": [
            {
                "type": "ocm",
                "listen": address[0],
                "listen_port": address[1],
                "credential_path": str(folder / "auth.json"),
                "usages_path": str(folder / "usages.json"),
                "users": [{"name": "alice", "token": BEARER_TOKEN}],
                "detour": _DETOUR,
            }
        ],
    }
    (folder / _CONFIGURATION).write_text(json.dumps(configuration, indent=2))
    return Prepared(("run", "--config", _CONFIGURATION, "--disable-color"))


def _version(_name: str, program: Path) -> str:
    said = subprocess.run([str(program), "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\S+)", said)
    return found[1] if found else "(unknown version)"


KIND = Kind(
    name="sing-box",
    title="sing-box",
    prepare=_prepare,
    started="sing-box started",
    workers=1,
    version=_version,
    rewrites=False,
    has_sockets=True,
)
