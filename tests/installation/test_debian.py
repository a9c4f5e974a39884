"""From an empty Debian with nothing but Python: the wheel, ``ocm demo``, a streamed turn."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.installation.debian import chroot, private_copy, program, run

# Includes the making of what it needs.
pytestmark = pytest.mark.timeout(1800)

#: After its packages are installed, the first turn of the demo takes at most this long, in seconds.
FIRST_TURN_SECONDS = 30


def test_demo_in_an_empty_debian(debian: Path, wheelhouse: Path, tmp_path: Path) -> None:
    """`pip install ocm-wsgi[demo]` needs nothing else, and `ocm demo` shows a turn."""
    with private_copy(debian, tmp_path / "debian") as tree:
        run([program("mount"), "--bind", wheelhouse, tree / "mnt"])
        # What the machine's users have in their profile.
        environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/mnt", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        try:
            chroot(tree, "python3", "-m", "venv", "/srv/ocm")
            pip = ["/srv/ocm/bin/pip", "install", "--quiet", "ocm-wsgi[demo]"]
            chroot(tree, *pip, environment=environment)
            began = time.monotonic()
            demo = chroot(tree, "/srv/ocm/bin/ocm", "demo", "--once")
            seconds = time.monotonic() - began
        finally:
            run([program("umount"), "--lazy", tree / "mnt"])
    assert "tokens in" in demo.stdout
    assert "curl -N http://127.0.0.1:" in demo.stdout
    assert seconds < FIRST_TURN_SECONDS
