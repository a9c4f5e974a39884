"""A stand-in for Codex 0.169 beside the service: it refreshes and writes as Codex was observed to do. Run as a program.

It presents its refresh token without holding a lock. To write, it takes ``auth.lock`` and then ``<file>.lock``, and
throws its new tokens away if the file has changed since it was loaded (compare and swap).

Usage: ``codex_standin.py PATH TOKEN_URL``. It says each step on a line: ``loaded``, then waits for a line; ``adopted``,
``refused`` or ``granted``; after ``granted`` it waits for a line, then ``committed``, ``discarded`` or ``busy``.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from pathlib import Path
from typing import Any

import requests


def report(word: str) -> None:
    """Report progress to the test."""
    print(word, flush=True)


def load(path: Path) -> Any:
    """Read the file."""
    return json.loads(path.read_bytes())


def exchange(content: Any, token_url: str) -> dict[str, str] | None:
    """Present the refresh token; return ``None`` if it is refused."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.post(
            token_url,
            json={
                "client_id": content["tokens"]["oauth_provenance"]["client_id"],
                "grant_type": "refresh_token",
                "refresh_token": content["tokens"]["refresh_token"],
                "refresh_reason": "proactive_expiry",
            },
            timeout=30,
        )
    if answer.status_code != 200:
        return None
    return {name: answer.json()[name] for name in ("id_token", "access_token", "refresh_token")}


def commit(path: Path, loaded: Any, tokens: dict[str, str]) -> str:
    """Write the tokens while holding both locks, if the file has not changed since it was loaded."""
    target = Path(os.path.realpath(path))
    with open(path.parent / "auth.lock", "a") as first, open(f"{target}.lock", "a") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "busy"
        if load(path) != loaded:
            return "discarded"
        temporary = target.with_name(".auth-Xy7Zq1")
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump({**loaded, "tokens": {**loaded["tokens"], **tokens}}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
        return "committed"


def main(path: Path, token_url: str) -> None:
    """Refresh once."""
    loaded = load(path)
    report("loaded")
    sys.stdin.readline()
    if load(path) != loaded:
        report("adopted")
        return
    tokens = exchange(loaded, token_url)
    report("refused" if tokens is None else "granted")
    if tokens is not None:
        sys.stdin.readline()
        report(commit(path, loaded, tokens))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
