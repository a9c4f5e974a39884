"""podman as a plain user, in namespaces that end with the test and leave nothing on the machine.

The user exists only there: copies of ``/etc/passwd`` and of the files of subordinate IDs are mounted over the real
ones. All processes end with the first one of the PID namespace.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.installation.debian import NAMESPACES, program, run

USER = "ocm-rootless"
UID = 54321
_SUBORDINATE_IDS = "ocm-rootless:1000000000:65536\n"
#: A container reaches the machine's loopback at this address (slirp4netns(1), ``--disable-host-loopback`` is off).
LOOPBACK = "10.0.2.2"

_CONTAINERS_CONF = """
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
network_cmd_options = ["allow_host_loopback=true"]
[containers]
log_driver = "k8s-file"
"""

# As root, in new mount and PID namespaces. $1: the folder, $2: whether podman's storage is in memory, $3: the user.
_SET_UP = r"""
set -eu
mount --make-rprivate /
# podman refuses a hybrid of both versions of cgroups.
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
for file in passwd group subuid subgid; do mount --bind "$1/etc/$file" "/etc/$file"; done
# For any user, as udev would set it.
[ -e /dev/net/tun ] || { mkdir -p /dev/net; mknod /dev/net/tun c 10 200; }
mknod -m 666 "$1/tun" c 10 200 && mount --bind "$1/tun" /dev/net/tun
storage=$1/home/.local/share/containers
if [ "$2" = yes ]; then mount -t tmpfs -o "mode=700,uid=$3,gid=$3" tmpfs "$storage"; fi
# podman warns if propagation is private.
mount --make-rshared /
touch "$1/ready"
# bash reaps the orphans of this namespace.
while :; do sleep 3600 & wait; done
"""


class Rootless:
    """A plain user's containers.

    :ivar folder: belongs to the user; for anything that podman reads.
    """

    def __init__(self, folder: Path, namespace: int) -> None:
        self.folder = folder / "home"
        self._namespace = namespace
        self._runtime = folder / "run"

    def command(self, *command: object, environment: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs this one as the user, in the namespaces."""
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder),
            "XDG_RUNTIME_DIR": str(self._runtime),
            "CONTAINERS_CONF": str(self.folder / "containers.conf"),
            "STORAGE_DRIVER": "overlay",
            "LANG": "C.UTF-8",
            **(environment or {}),
        }
        assigned = [f"{name}={value}" for name, value in variables.items()]
        enter = [program("nsenter"), f"--target={self._namespace}", "--mount", "--pid"]
        identity = [program("setpriv"), f"--reuid={UID}", f"--regid={UID}", "--init-groups"]
        clean = ["env", f"--chdir={self.folder}", "--ignore-environment", *assigned]
        return [*enter, *identity, *clean, *map(str, command)]

    def run(
        self,
        *command: object,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = 300,
        succeeds: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user; see :func:`debian.run`."""
        return run(self.command(*command, environment=environment), timeout_seconds=timeout_seconds, succeeds=succeeds)

    def podman(self, *arguments: object, timeout_seconds: float = 300, succeeds: bool = True) -> str:
        """Run podman, and return what it printed, without the complaint that it cannot schedule health checks.

        It does so with timers of the user's systemd, which does not run here.
        """
        result = self.run("podman", *arguments, timeout_seconds=timeout_seconds, succeeds=succeeds)
        lines = [line for line in result.stdout.splitlines() if "healthchecks: dial unix" not in line]
        return "\n".join(lines)

    def start(self, *command: object) -> subprocess.Popen[bytes]:
        """Start a command as the user, without its output."""
        return subprocess.Popen(
            self.command(*command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def give(self, path: Path) -> None:
        """Let a file or folder belong to the user."""
        run([program("chown"), "--recursive", f"{UID}:{UID}", path])


@contextmanager
def run_rootless() -> Iterator[Rootless]:
    """Make the user and the namespaces; end all processes in them, and remove the files, after the context."""
    assert os.geteuid() == 0, "only root can make the namespaces in which a plain user runs podman"
    # Not pytest's folder, which other users cannot enter; podman's paths must not be longer than 50 characters.
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="ocm-"))
    folder.chmod(0o711)
    try:
        _write_files(folder)
        unshare = [*NAMESPACES, "--mount-proc"]
        set_up = [
            program("bash"),
            "-c",
            _SET_UP,
            "bash",
            str(folder),
            "yes" if _memory_has_attributes() else "no",
            str(UID),
        ]
        with subprocess.Popen([*unshare, *set_up]) as namespace:
            try:
                yield Rootless(folder, _child(namespace, folder / "ready"))
            finally:
                namespace.kill()
    finally:
        shutil.rmtree(folder)


def _write_files(folder: Path) -> None:
    (folder / "etc").mkdir()
    additions = {
        "passwd": f"{USER}:x:{UID}:{UID}::{folder}/home:/bin/sh\n",
        "group": f"{USER}:x:{UID}:\n",
        "subuid": _SUBORDINATE_IDS,
        "subgid": _SUBORDINATE_IDS,
    }
    for name, line in additions.items():
        original = Path("/etc", name)
        original.touch()
        (folder / "etc" / name).write_text(original.read_text() + line)
    (folder / "run").mkdir(mode=0o700)
    (folder / "home/.local/share/containers").mkdir(parents=True)
    (folder / "home").chmod(0o700)
    for path in (folder / "run", folder / "home", *folder.glob("home/.local/**")):
        os.chown(path, UID, UID)
    (folder / "home" / "containers.conf").write_text(_CONTAINERS_CONF)


def _memory_has_attributes() -> bool:
    """Return whether tmpfs has extended attributes of users (Linux 6.6), which a plain user's overlay needs.

    Storage in memory is much faster, and gone with the namespaces.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        try:
            os.setxattr(folder, "user.ocm", b"")
        except OSError:
            return False
    return True


def _child(namespace: subprocess.Popen[bytes], ready: Path) -> int:
    """Wait until the namespaces are set up, and return the pid of their first process."""
    deadline = time.monotonic() + 60
    while not ready.exists():
        assert namespace.poll() is None, "this kernel does not let root make mount and PID namespaces"
        assert time.monotonic() < deadline, "the namespaces were not set up"
        time.sleep(0.02)
    (child,) = Path(f"/proc/{namespace.pid}/task/{namespace.pid}/children").read_text().split()
    return int(child)
