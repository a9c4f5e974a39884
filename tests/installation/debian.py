"""Trees of Debian 13, made once and kept in ``.cache``, and private copies of them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from tests.wheels import REPOSITORY

SUITE = "trixie"
#: "Nothing but Python": no compiler and no pip. The image's build would install binutils itself, but has no network.
PACKAGES = ("python3", "python3-venv", "ca-certificates", "binutils")
#: What servers have in addition: an init, its tools, and Caddy.
SERVER_PACKAGES = ("systemd", "systemd-sysv", "dbus", "caddy")
CACHE = REPOSITORY / ".cache" / "debian"
#: New namespaces of mounts and processes, whose processes all end with this one, however it ends.
NAMESPACES: tuple[str, ...] = (
    *("setpriv", "--pdeathsig=KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
)
# The paths that Debian's own slim images leave out.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")


def program(name: str) -> str:
    """Return the path of a program.

    It is a failure, not a reason to skip a test, if this machine lacks it: then the test says so.
    """
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found, f"this machine lacks {name}: `make test-installation` installs it on Debian, as root"
    return found


def run(
    command: Sequence[object],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_seconds: float = 300,
    succeeds: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command; all its output is in ``stdout``.

    :param succeeds: whether it is a failure of the test if the command fails.
    """
    result = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_seconds,
        check=False,
        env=environment,
    )
    assert result.returncode == 0 or not succeeds, f"{command} ended with {result.returncode}:\n{result.stdout[-6000:]}"
    return result


def base_tree() -> Path:
    """Return Debian 13 with Python, in a tree that nothing changes."""
    name = _name(PACKAGES)
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):
        if not (CACHE / name).exists():
            with _unfinished(name) as tree:
                options = [f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT]
                include = f"--include={','.join(PACKAGES)}"
                # The same packages as debootstrap's variant of this name, in half the time.
                command = [program("mmdebstrap"), "--variant=minbase", "--dpkgopt=force-unsafe-io", *options, include]
                run([*command, SUITE, tree], timeout_seconds=900)
    return CACHE / name


def server_tree() -> Path:
    """Return the same with an init and Caddy."""
    base = base_tree()
    name = _name((*PACKAGES, *SERVER_PACKAGES))
    with FileLock(CACHE / f"{name}.lock"):
        if not (CACHE / name).exists():
            with _unfinished(name) as tree:
                run([program("cp"), "--archive", "--reflink=auto", base, tree])
                # Debian starts services on installation, and there is no init yet.
                (tree / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
                (tree / "usr/sbin/policy-rc.d").chmod(0o755)
                shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
                install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *SERVER_PACKAGES]
                for command in (["apt-get", "update", "-qq"], install, ["apt-get", "clean"]):
                    chroot(tree, *command, environment={"DEBIAN_FRONTEND": "noninteractive"})
                shutil.rmtree(tree / "var/lib/apt/lists")
                (tree / "usr/sbin/policy-rc.d").unlink()
    return CACHE / name


def _name(packages: Iterable[str]) -> str:
    """Return a name by which a changed list of packages is noticed."""
    return f"{SUITE}-{hashlib.sha256(' '.join((*packages, *_LEFT_OUT)).encode()).hexdigest()[:12]}"


@contextmanager
def _unfinished(name: str) -> Iterator[Path]:
    """Yield a path for a tree that gets its name once it is complete."""
    folder = Path(tempfile.mkdtemp(dir=CACHE, prefix="unfinished-"))
    # apt downloads as a user of its own.
    folder.chmod(0o755)
    try:
        yield folder / "tree"
        (folder / "tree").rename(CACHE / name)
    finally:
        shutil.rmtree(folder)


@contextmanager
def private_copy(tree: Path, folder: Path) -> Iterator[Path]:
    """Yield a copy of a tree that can be changed; what is changed is in ``folder``."""
    paths = {name: folder / name for name in ("upper", "work", "merged")}
    for path in paths.values():
        path.mkdir(parents=True)
    options = f"lowerdir={tree},upperdir={paths['upper']},workdir={paths['work']}"
    run([program("mount"), "-t", "overlay", "overlay", "-o", options, paths["merged"]])
    try:
        yield paths["merged"]
    finally:
        run([program("umount"), "--lazy", paths["merged"]])


def chroot(
    tree: Path, *command: object, environment: Mapping[str, str] | None = None, timeout_seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a command in a tree, with ``/proc``, and end whatever it leaves running."""
    unshare = [*NAMESPACES, f"--mount-proc={tree / 'proc'}"]
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8", **(environment or {})}
    return run([*unshare, program("chroot"), tree, *command], environment=variables, timeout_seconds=timeout_seconds)
