"""What the tests of installations share: a Debian without anything, wheels, and an image. Needs root."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import ocm_wsgi
from tests.installation.debian import base_tree, run, server_tree
from tests.installation.image import build_image, import_tree
from tests.installation.rootless import Rootless, run_rootless
from tests.wheels import REPOSITORY, build_wheel

LOCK = REPOSITORY / "requirements.lock"
#: Of Debian 13.
PYTHON = "3.13"
#: The version of an upgrade.
NEXT_VERSION = "99.1"


@pytest.fixture(scope="session")
def debian() -> Path:
    """Return Debian 13 with nothing but Python."""
    return base_tree()


@pytest.fixture(scope="session")
def server() -> Path:
    """Return Debian 13 with an init and Caddy."""
    return server_tree()


@pytest.fixture(scope="session")
def wheels() -> Path:
    """Return a folder with the wheels of the lock file, for Debian 13; kept in ``.cache``."""
    cache = REPOSITORY / ".cache" / "wheels"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{PYTHON}-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            machines = [f"--platform=manylinux{glibc}_x86_64" for glibc in ("2014", "_2_28", "_2_34")]
            options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={PYTHON}", *machines]
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
            run([*pip, "--require-hashes", f"--requirement={LOCK}", f"--dest={unfinished}"], timeout_seconds=600)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def wheelhouse(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with these wheels and this package's, as an index would have them.

    The environment variable ``RELEASED`` names the folder of a wheel to test instead of one of the sources.
    """
    folder = tmp_path_factory.mktemp("wheelhouse")
    shutil.copytree(wheels, folder, dirs_exist_ok=True)
    released = os.environ.get("RELEASED")
    if released:
        (wheel,) = Path(released).glob("*.whl")
    else:
        wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    shutil.copy(wheel, folder)
    return folder


@pytest.fixture(scope="session")
def next_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel of a later release."""
    folder = tmp_path_factory.mktemp("next")
    return build_wheel(folder, version=NEXT_VERSION)


@pytest.fixture(scope="session")
def rootless() -> Iterator[Rootless]:
    """Return a plain user who runs containers."""
    with run_rootless() as user:
        yield user


@pytest.fixture(scope="session")
def base_image(rootless: Rootless, debian: Path) -> str:
    """Return the image that stands in for Docker's official one of Python, which cannot be fetched here."""
    return import_tree(rootless, debian, "debian-python")


@pytest.fixture(scope="session")
def image(rootless: Rootless, base_image: str, wheels: Path) -> str:
    """Return the image of the service."""
    return build_image(rootless, base_image, wheels, version=ocm_wsgi.__version__)


@pytest.fixture(scope="session")
def next_image(rootless: Rootless, base_image: str, wheels: Path, image: str) -> str:
    """Return the image of a later release."""
    return build_image(rootless, base_image, wheels, version=NEXT_VERSION)
