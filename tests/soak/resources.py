"""A worker's resources as reported by the kernel: threads, memory, connections, other descriptors. Linux only."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_STATUS = re.compile(r"^(Threads|RssAnon):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Resources:
    """The resources of one worker at one point in time.

    :ivar memory: resident anonymous memory, in KiB. Memory shared with the master counts in full, so that it does not
        appear to grow when pages are no longer shared.
    :ivar clients: connections to clients, in any state.
    :ivar upstream: connections to upstream, in any state.
    :ivar database: descriptors of the state database.
    :ivar others: all other descriptors.
    """

    pid: int
    threads: int
    memory: int
    clients: int
    upstream: int
    database: int
    others: int


def resources_of(pid: int, *, port: int, upstream_port: int) -> Resources:
    """Inspect a process.

    :param port: the port that the process listens on.
    :raises OSError: the process is gone.
    """
    process = Path(f"/proc/{pid}")
    known = dict(_STATUS.findall((process / "status").read_text()))
    if "RssAnon" not in known:
        raise ProcessLookupError(pid)  # It has exited, but its parent has not reaped it yet.
    remote = _connections(process, port=port, upstream_port=upstream_port)
    counted = Counter(remote.get(link) or _kind(link) for link in _descriptors(process))
    kinds = {name: counted[name] for name in ("clients", "upstream", "database", "others")}
    return Resources(pid, threads=int(known["Threads"]), memory=int(known["RssAnon"]), **kinds)


def _connections(process: Path, *, port: int, upstream_port: int) -> dict[str, str]:
    """Return the kind of each of this machine's TCP connections, by the link that descriptors of the process have."""
    found = {}
    for line in (process / "net" / "tcp").read_text().splitlines()[1:]:
        _, local, remote, *rest = line.split()
        local_port, remote_port = int(local.rpartition(":")[2], 16), int(remote.rpartition(":")[2], 16)
        if remote_port == upstream_port:
            found[f"socket:[{rest[6]}]"] = "upstream"
        elif local_port == port and remote_port:
            found[f"socket:[{rest[6]}]"] = "clients"
    return found


def _kind(link: str) -> str:
    return "database" if "/ocm.db" in link else "others"


def _descriptors(process: Path) -> list[str]:
    links = []
    for entry in os.scandir(process / "fd"):
        try:
            links.append(os.readlink(entry.path))
        except FileNotFoundError:
            continue  # Closed in the meantime.
    return links
