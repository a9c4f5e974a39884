"""What a worker holds, as the kernel tells: threads, memory, connections, other descriptors. Linux only."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

_STATUS = re.compile(r"^(Threads|RssAnon):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Holdings:
    """What one worker holds at one moment.

    :ivar memory: anonymous memory that is resident, in KiB. What is shared with the master counts in full, so that it
        does not seem to grow when pages cease to be shared.
    :ivar clients: connections to clients, in whatever state.
    :ivar upstream: connections to upstream, in whatever state.
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


def holdings_of(pid: int, *, port: int, upstream_port: int) -> Holdings:
    """Look at a process.

    :param port: that it listens on.
    :raises OSError: it is gone.
    """
    process = Path(f"/proc/{pid}")
    known = dict(_STATUS.findall((process / "status").read_text()))
    if "RssAnon" not in known:
        raise ProcessLookupError(pid)  # It has ended, and its parent has yet to hear of it.
    remote = _connections(process, port=port, upstream_port=upstream_port)
    counted = Counter(remote.get(link) or _kind(link) for link in _descriptors(process))
    kinds = {name: counted[name] for name in ("clients", "upstream", "database", "others")}
    return Holdings(pid, threads=int(known["Threads"]), memory=int(known["RssAnon"]), **kinds)


def _connections(process: Path, *, port: int, upstream_port: int) -> dict[str, str]:
    """Tell what the TCP connections of this machine are to the process, by their link in its descriptors."""
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
            continue  # Closed just now.
    return links
