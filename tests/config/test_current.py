"""The configuration of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(folder: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in its own process: the configuration is loaded once in each."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environ, text=True, capture_output=True)


def test_config_is_loaded_once(tmp_path: Path) -> None:
    """The same value is returned each time, without a server."""
    code = "from ocm_wsgi.config.current import config; print(config() is config(), config().listen_port)"
    assert run(tmp_path, code, OCM_LISTEN_PORT="5").stdout == "True 5\n"


def test_config_exits_on_problems(tmp_path: Path) -> None:
    """Problems are printed to standard error, with exit code 1 and no traceback."""
    code = "from ocm_wsgi.config import current; current.config()"
    result = run(tmp_path, code, OCM_LISTEN_PORT="x", OCM_LISTN="y")
    assert result.returncode == 1
    assert result.stderr.startswith("2 problems in the configuration (defaults):\n")
    assert "Traceback" not in result.stderr


def test_app_needs_no_gunicorn(tmp_path: Path) -> None:
    """Another WSGI server may be without gunicorn, so the application must not import it."""
    code = "import sys, ocm_wsgi.app; print([name for name in sys.modules if name.partition('.')[0] == 'gunicorn'])"
    assert run(tmp_path, code).stdout == "[]\n"
