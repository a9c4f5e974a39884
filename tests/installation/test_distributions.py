"""The wheel in an empty environment with dependencies from the package index, and the source distribution."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.wheels import REPOSITORY, build_wheel, pip

# The package index may be slow.
pytestmark = pytest.mark.timeout(900)
#: From the start to the end of the streamed turn. It takes three on an idle machine.
DEMO_SECONDS = 30


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of this package."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def content(wheel: Path) -> dict[str, bytes]:
    """Return the files in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """`pip install 'ocm-wsgi[demo]'` is all that a streamed turn takes; without the extra, only the demo is missing."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"

    def ocm(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        command = [str(python.with_name("ocm")), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=timeout, check=False
        )

    pip("--python", str(python), "install", str(wheel))
    demo = ocm("demo")
    assert (demo.returncode, demo.stdout) == (1, "")
    assert demo.stderr == "Error: The demo needs websockets: pip install 'ocm-wsgi[demo]'\n"
    assert ocm("add-user", "alice").returncode == 0
    pip("--python", str(python), "install", f"ocm-wsgi[demo] @ {wheel.as_uri()}")
    demo = ocm("demo", "--once", timeout=DEMO_SECONDS)
    assert (demo.returncode, demo.stderr) == (0, "")
    assert "Hello! I am a simulated model" in demo.stdout
    assert " venv/bin/ocm usage\n" in demo.stdout


def test_wheel_from_the_source_distribution(wheel: Path, tmp_path: Path) -> None:
    """A wheel that is built from the source distribution is the one that is built from the repository."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if (REPOSITORY / name).exists():
            (tmp_path / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, tmp_path / "sources" / name, follow_symlinks=False)
    build = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "sources", check=True, stdout=subprocess.DEVNULL)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "deploy/nginx.conf",
        "docs/cli.md",
        "gunicorn.conf.py",
        "tests/conftest.py",
    } <= names
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path))
    pip("wheel", *options, str(sdist))
    (built,) = tmp_path.glob("*.whl")
    ours, theirs = content(wheel), content(built)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name] and not name.endswith("RECORD")] == []
