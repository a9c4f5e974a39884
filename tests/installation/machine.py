"""A Debian that boots systemd, in a container of systemd-nspawn that shares this machine's network."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.installation.debian import NAMESPACES, program, run

# As root, in new mount and PID namespaces. $1: the tree, $2: where its console goes, $3: further options.
_BOOT = r"""
set -eu
mount --make-rprivate /
# systemd 257 does not run on cgroups of version 1, nor on both at once.
[ -e /sys/fs/cgroup/cgroup.controllers ] || mount -t cgroup2 cgroup2 /sys/fs/cgroup
boot() {
    status=0
    systemd-nspawn --quiet --boot --register=no --keep-unit --console=pipe --directory="$1" $3 || status=$?
}
# With --keep-unit, it leaves a reboot to its caller, by this status (EXIT_FORCE_RESTART).
status=133
while [ "$status" = 133 ]; do boot "$@" >>"$2" 2>&1 </dev/null; done
"""


class Machine:
    """A booted Debian.

    :ivar tree: its root folder.
    """

    def __init__(self, tree: Path, console: Path, namespace: int) -> None:
        self.tree = tree
        self._console = console
        self._namespace = namespace

    def run(self, command: str, *, succeeds: bool = True, timeout_seconds: float = 300) -> str:
        """Run a shell command as root in the machine, and return what it printed."""
        init = self._find_init()
        assert init is not None, self._console.read_text()[-4000:]
        return self._enter(init, command, succeeds=succeeds, timeout_seconds=timeout_seconds)

    def _enter(self, init: int, command: str, *, succeeds: bool, timeout_seconds: float = 60) -> str:
        enter = [program("nsenter"), f"--target={init}", "--all", "env", "--ignore-environment"]
        variables = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8"]
        result = run([*enter, *variables, "sh", "-euc", command], succeeds=succeeds, timeout_seconds=timeout_seconds)
        return result.stdout

    def journal(self) -> str:
        """Return what the service and systemd logged about it, of all boots."""
        return self.run("journalctl --unit=ocm --no-pager --lines=200", succeeds=False)

    def wait_until_booted(self) -> None:
        """Wait until all units have been started."""
        deadline = time.monotonic() + 180
        while "running" not in self._state():
            assert time.monotonic() < deadline, f"it did not boot:\n{self._console.read_text()[-4000:]}"
            time.sleep(0.2)

    def reboot(self) -> None:
        """Reboot it, and wait for the new init."""
        before = self._find_init()
        self.run("systemctl reboot", succeeds=False)
        deadline = time.monotonic() + 300
        while self._find_init() in (None, before):
            assert time.monotonic() < deadline, self._console.read_text()[-4000:]
            time.sleep(0.1)
        self.wait_until_booted()

    def _state(self) -> str:
        init = self._find_init()
        return "" if init is None else self._enter(init, "systemctl is-system-running", succeeds=False)

    def _find_init(self) -> int | None:
        """Return the pid of the machine's first process, seen from here: unshare, sh, systemd-nspawn, systemd."""
        found = [self._namespace]
        for _generation in range(3):
            found = [child for pid in found for child in _children(pid)]
        # Until it has started its program, it is a copy of systemd-nspawn.
        return next((pid for pid in found if _name(pid) == "systemd"), None)


def _children(pid: int) -> list[int]:
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:  # It has exited.
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


@contextmanager
def boot(tree: Path, folder: Path, *, binds: dict[Path, str]) -> Iterator[Machine]:
    """Boot a tree, and end all its processes after the context.

    :param folder: for the machine's console.
    :param binds: folders of this machine, and where they are in the other, read-only.
    """
    program("systemd-nspawn")
    console = folder / "console"
    console.touch()
    # The journal survives a reboot.
    (tree / "var/log/journal").mkdir(parents=True, exist_ok=True)
    mounts = " ".join(f"--bind-ro={source}:{target}" for source, target in binds.items())
    unshare = [*NAMESPACES, "--mount-proc"]
    command = [*unshare, program("sh"), "-c", _BOOT, "sh", str(tree), str(console), mounts]
    with subprocess.Popen(command) as namespace:
        try:
            machine = Machine(tree, console, namespace.pid)
            machine.wait_until_booted()
            yield machine
        finally:
            namespace.kill()
