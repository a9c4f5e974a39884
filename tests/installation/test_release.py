"""``make release``: anyone can build the same files from a commit, and they say what they are."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ocm_wsgi
from tests.wheels import REPOSITORY, set_version

pytestmark = pytest.mark.timeout(900)


def release(sources: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the script as the Makefile does."""
    command = [str(sources / "scripts" / "release"), sys.prefix, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Return a clone of this repository, in which to change and commit."""
    folder = tmp_path / "sources"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    return folder


def test_release_is_reproducible_and_complete(sources: Path, tmp_path: Path) -> None:
    """Two releases of a commit, in different folders, are equal; hashes and the list of components go with them."""
    version = ocm_wsgi.__version__
    done = release(sources, "--trial")
    assert done.returncode == 0, done.stdout + done.stderr
    files = {path.name: path.read_bytes() for path in (sources / "dist").iterdir()}
    wheel, archive, components = (f"ocm_wsgi-{version}{end}" for end in ("-py3-none-any.whl", ".tar.gz", ".cdx.json"))
    assert files.keys() == {wheel, archive, components, "SHA256SUMS"}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != "SHA256SUMS"}
    assert files["SHA256SUMS"].decode() == "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    listed = {component["name"] for component in json.loads(files[components])["components"]}
    assert {"Flask", "ocm-wsgi", "gunicorn"} <= listed
    assert str(tmp_path).encode() not in b"".join(files.values())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("uncommitted", "there are uncommitted changes; commit them first."),
        ("version", "the newest changes in CHANGELOG.md are of ["),
    ],
)
def test_unfinished_release_is_refused(sources: Path, change: str, reason: str) -> None:
    """Nothing is built from changes that no commit has, or of a version that the changelog does not have."""
    set_version(sources, "99.0")
    if change == "version":
        name = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", sources, *name, "commit", "--quiet", "--all", "--message=Next"], check=True)
    done = release(sources)
    assert done.returncode == 1
    assert done.stderr.startswith(f"No release was made: {reason}")
    assert not (sources / "dist").exists()
