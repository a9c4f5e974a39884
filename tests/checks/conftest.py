"""``ocm check`` as a separate process, with or without a running service."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.forkserver import run_flask_ocm

# Make file modes apply even if root runs the tests.
_AS_ANYBODY = () if os.geteuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@dataclass(frozen=True)
class Report:
    """The result of a check."""

    status: int
    output: str
    errors: str

    @property
    def findings(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.output)["findings"]
        return found

    def level(self, subject: str, code: str) -> str | None:
        """Return the level of the only such finding, or ``None`` without one."""
        levels = [each["level"] for each in self.findings if (each["subject"], each["code"]) == (subject, code)]
        assert len(levels) <= 1, levels
        return levels[0] if levels else None

    def worst(self) -> list[tuple[str, str]]:
        """Return the subject and code of all problems and warnings."""
        bad = ("problem", "warning")
        return [(each["subject"], each["code"]) for each in self.findings if each["level"] in bad]


@dataclass
class Owner:
    """The user who runs the check, in a folder of their own."""

    folder: Path

    @property
    def credential_path(self) -> Path:
        return self.folder / "codex" / "auth.json"

    @property
    def state_path(self) -> Path:
        return self.folder / "state"

    def configure(self, entry: Mapping[str, Any]) -> None:
        (self.folder / "ocm.json").write_text(json.dumps(entry))
        (self.folder / "ocm.json").chmod(0o600)

    def put(self, content: Any) -> None:
        self.credential_path.parent.mkdir(mode=0o700, exist_ok=True)
        self.credential_path.write_text(content if isinstance(content, str) else json.dumps(content))
        self.credential_path.chmod(0o600)

    def check(self, *arguments: str, as_json: bool = True, folder: Path = REPOSITORY, **environ: str) -> Report:
        """Run the check, by default in the folder of gunicorn.conf.py."""
        result = run_flask_ocm(
            "check",
            *arguments,
            *(["--json"] if as_json else []),
            environment={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "OCM_CONFIG": str(self.folder / "ocm.json"),
                **environ,
            },
            folder=folder,
            wrapper=_AS_ANYBODY,
        )
        assert "Traceback" not in result.stderr, result.stderr
        return Report(result.returncode, result.stdout, result.stderr)


@pytest.fixture
def owner(simulator: Any, tmp_path: Path) -> Owner:
    """Return an owner without problems: configuration, credential, state, and a reachable OpenAI."""
    owner = Owner(tmp_path)
    owner.configure(
        {
            "credential_path": str(owner.credential_path),
            "state_path": str(owner.state_path),
            "users": [{"name": "alice", "token": "sk-ocm-9vQ2mXc7RzLpT4yKbWfHsN8dGjE3aUo6"}],
            "chatgpt_base_url": simulator.chatgpt_base_url,
            "api_base_url": simulator.api_base_url,
            "auth_base_url": simulator.auth_base_url,
        }
    )
    owner.put(simulator.credential())
    owner.state_path.mkdir(mode=0o700)
    return owner
