"""Builds the wheel of this package, and installs it where only its dependencies are visible beside it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
#: Folders of the repository that are neither sources nor small.
_NOT_SOURCES = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "*.egg-info", "tests", "benchmarks", "images"
)


def build_wheel(folder: Path, *, version: str | None = None) -> Path:
    """Build the wheel from a copy of the sources, so that nothing of an earlier build gets into it.

    :param folder: where the copy and the wheel are created.
    :param version: of the package, instead of the sources' own.
    """
    shutil.copytree(REPOSITORY, folder / "sources", symlinks=True, ignore=_NOT_SOURCES)
    if version is not None:
        set_version(folder / "sources", version)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "sources"))
    (wheel,) = folder.glob("*.whl")
    return wheel


def set_version(sources: Path, version: str) -> None:
    """Change the version of a copy of the sources."""
    path = sources / "ocm_wsgi" / "__init__.py"
    text, count = re.subn(r'^__version__ = ".*"$', f'__version__ = "{version}"', path.read_text(), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a new environment that sees this one's packages, except for this repository.

    :return: the folder of its programs.
    """
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip("--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    site_packages = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    # The lines of such a file are added to the path as they are: the editable installation there has no effect.
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder / "bin"


def pip(*arguments: str) -> None:
    """Run pip quietly, and show all it printed if it fails."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert result.returncode == 0, result.stdout
