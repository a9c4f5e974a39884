"""An owner's folder with its configuration, and ``flask ocm`` run in it as a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ocm_wsgi.simulator import Simulator
from tests.forkserver import COVERAGE_VARIABLES, REPOSITORY, run_flask_ocm


@dataclass
class Owner:
    """The owner at the command line, with a simulated issuer."""

    simulator: Simulator
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return self.folder / "codex" / "auth.json"

    @property
    def _variables(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment}

    def configure(self, **keys: Any) -> None:
        entry = {
            "credential_path": str(self.path),
            "state_path": str(self.folder / "state"),
            "auth_base_url": self.simulator.auth_base_url,
            **keys,
        }
        (self.folder / "ocm.json").write_text(json.dumps(entry))

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``flask ocm …``; the caller ends it."""
        return subprocess.Popen(
            [sys.executable, "-m", "flask", "ocm", *arguments],
            cwd=self.folder,
            env={**COVERAGE_VARIABLES, "PYTHONPATH": str(REPOSITORY), **self._variables},
            text=True,
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "start_new_session": True,
                **options,
            },
        )

    def run(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``flask ocm …`` to its end, without a terminal."""
        result = run_flask_ocm(*arguments, environment=self._variables, folder=self.folder, typed=typed)
        assert "Traceback" not in result.stderr, result.stderr
        return result

    def put(self, content: Any) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))

    def content(self) -> Any:
        return json.loads(self.path.read_text())

    def secrets(self) -> list[str]:
        """Return every token in the file."""
        return [self.content()["tokens"][name] for name in ("id_token", "access_token", "refresh_token")]


@pytest.fixture
def owner(simulator: Simulator, tmp_path: Path) -> Owner:
    """Return an owner without a credential."""
    found = Owner(simulator, tmp_path)
    found.configure()
    return found
