"""The command line in a separate folder with its own configuration and state, isolated from the machine's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ocm_wsgi.program import ocm


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("CODEX_HOME", "SUDO_USER", "XDG_STATE_HOME", "OCM_CONFIG", "OCM_STATE_PATH", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "ocm.json").write_text(
        json.dumps({"state_path": "state", "users": [{"name": "carol", "token": "token-of-carol"}]})
    )
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Callable[..., Result]:
    def run(*arguments: str, input: str | None = None, **environ: str) -> Result:
        result = CliRunner().invoke(ocm, arguments, input=input, env=environ, prog_name="ocm")
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def run_json(run: Callable[..., Result]) -> Callable[..., Any]:
    def run_json(*arguments: str) -> Any:
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run_json
