"""Files that are replaced in one step, on real file systems and by real processes."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import ocm_wsgi
from ocm_wsgi.storage.files import (
    NewFile,
    copy_owner,
    make_private_folder,
    replace_file,
    reserve,
    sync_folder,
    write_all,
)

OLD = b"old content, which is longer than the new one"
NEW = b"new content"
FULL = os.strerror(errno.ENOSPC)

# Replaces a file for as long as the process lives.
WRITER = """
import sys
from pathlib import Path
from ocm_wsgi.storage.files import replace_file
target = Path(sys.argv[1])
for number in range(10**9):
    letter = "abcdefgh"[number % 8].encode()
    replace_file(target, letter * 50_000, temporary=target.with_suffix(".new"))
    if number == 8:
        print("ready", flush=True)
"""


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An existing file, alone in its folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "file"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def full_disk(tmp_path: Path, mount: Callable[..., None]) -> Path:
    """The root of a file system with no space left but an old file and a filler."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=128k", "none", disk)
    (disk / "file").write_bytes(OLD)
    with (disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return disk


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("sync", [True, False])
def test_replace_file(target: Path, sync: bool) -> None:
    """The content is replaced whole, with the given permissions, and no temporary file remains."""
    replace_file(target, NEW, temporary=target.with_suffix(".new"), mode=0o640, sync=sync)
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert names(target.parent) == ["file"]


def test_replace_file_creates(tmp_path: Path) -> None:
    """A file that does not exist is created, for the owner only."""
    target = tmp_path / "new-file"
    replace_file(target, NEW, temporary=tmp_path / "temporary")
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_replace_file_leaves_open_readers_alone(target: Path) -> None:
    """A reader that has the old file open reads the old content to its end."""
    with target.open("rb") as reader:
        start = reader.read(3)
        replace_file(target, NEW, temporary=target.with_suffix(".new"))
        assert start + reader.read() == OLD


def test_replace_file_over_a_left_over(target: Path) -> None:
    """A longer temporary file that a killed process left is overwritten."""
    target.with_suffix(".new").write_bytes(b"x" * 1000)
    replace_file(target, NEW, temporary=target.with_suffix(".new"))
    assert target.read_bytes() == NEW
    assert names(target.parent) == ["file"]


def test_replace_file_replaces_a_symbolic_link(target: Path) -> None:
    """A symbolic link is itself replaced; the file it pointed to is unchanged."""
    link = target.with_name("link")
    link.symlink_to(target)
    replace_file(link, NEW, temporary=target.with_name("temporary"))
    assert not link.is_symlink()
    assert (link.read_bytes(), target.read_bytes()) == (NEW, OLD)


def test_replace_file_on_a_full_disk(full_disk: Path) -> None:
    """On a full disk the old content stays, and the temporary file is removed."""
    target = full_disk / "file"
    with pytest.raises(OSError, match=FULL):
        replace_file(target, b"x" * 100_000, temporary=full_disk / "temporary")
    assert target.read_bytes() == OLD
    assert names(full_disk) == ["file", "filler"]


def test_replace_file_on_a_mount_point(target: Path, tmp_path: Path, mount: Callable[..., None]) -> None:
    """A file that is a mount point cannot be replaced; it is unchanged, and the temporary file is removed."""
    outside = tmp_path / "outside"
    outside.write_bytes(OLD)
    mount("--bind", outside, target)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        replace_file(target, NEW, temporary=target.with_suffix(".new"))
    assert (target.read_bytes(), outside.read_bytes()) == (OLD, OLD)
    assert names(target.parent) == ["file"]


def test_replace_file_killed_at_random(target: Path) -> None:
    """Whenever the writer is killed, the file holds one whole content, and the next writer succeeds."""
    for _ in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(20):
            content = target.read_bytes()
            assert content == content[:1] * 50_000
        writer.kill()
        writer.communicate()
        content = target.read_bytes()
        assert content == content[:1] * 50_000
    assert set(names(target.parent)) <= {"file", "file.new"}


def test_new_file_exclusive(target: Path) -> None:
    """An existing temporary file is an error unless it may be overwritten, and is left alone."""
    temporary = target.with_suffix(".new")
    temporary.write_bytes(OLD)
    with pytest.raises(FileExistsError):
        NewFile(target, temporary=temporary)
    assert temporary.read_bytes() == OLD


def test_new_file_abandoned(target: Path) -> None:
    """A file that is not put in place is removed at the end of the context, also on an error."""
    with suppress(ZeroDivisionError), NewFile(target, temporary=target.with_suffix(".new")) as new:
        new.write(NEW)
        assert names(target.parent) == ["file", "file.new"]
        raise ZeroDivisionError
    assert names(target.parent) == ["file"]
    assert target.read_bytes() == OLD
    new.close()


def test_new_file_descriptor_stays_open(target: Path) -> None:
    """Outside a context manager the descriptor stays usable after the file has its final name."""
    new = NewFile(target, temporary=target.with_suffix(".new"))
    new.write(NEW)
    new.replace()
    os.pwrite(new.descriptor, b"NEW", 0)
    new.close()
    assert target.read_bytes() == b"NEW content"


def test_link(target: Path) -> None:
    """A link creates the file and never replaces one."""
    other = target.with_name("other")
    with NewFile(other, temporary=target.with_name("temporary")) as new:
        new.write(NEW, sync=False)
        new.link()
    assert other.read_bytes() == NEW
    with NewFile(target, temporary=target.with_name("temporary")) as new:
        new.write(NEW)
        with pytest.raises(FileExistsError):
            new.link()
    assert target.read_bytes() == OLD
    assert names(target.parent) == ["file", "other"]


def test_write_all_on_a_full_disk(full_disk: Path) -> None:
    """What does not fit is an error, not a short count."""
    (full_disk / "filler").unlink()
    with (full_disk / "big").open("wb", buffering=0) as file, pytest.raises(OSError, match=FULL):
        write_all(file.fileno(), b"x" * 1_000_000, 0)


def test_write_all(target: Path) -> None:
    """Bytes are written at the offset; the offset after them is returned."""
    with target.open("r+b", buffering=0) as file:
        assert write_all(file.fileno(), b"OLD", 0) == 3
        assert write_all(file.fileno(), b"!", len(OLD)) == len(OLD) + 1
    assert target.read_bytes() == b"OLD" + OLD[3:] + b"!"


def test_reserve(tmp_path: Path) -> None:
    """The file has the size, and takes that much space on disk."""
    with (tmp_path / "file").open("wb") as file:
        reserve(file.fileno(), 100_000)
        status = os.fstat(file.fileno())
    assert status.st_size == 100_000
    assert status.st_blocks * 512 >= 100_000


def test_reserve_on_a_full_disk(full_disk: Path) -> None:
    """A full disk is an error, whether or not there is a filler."""
    for filler in (b"", b" "):
        with (full_disk / "other").open("wb") as file, pytest.raises(OSError, match=FULL):
            reserve(file.fileno(), 100_000, filler=filler)


@pytest.mark.parametrize(("filler", "content"), [(b" ", b" " * 1000), (b"", b"")])
def test_reserve_where_that_is_impossible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filler: bytes, content: bytes
) -> None:
    """A file system that cannot reserve space gets the filler; without one it is an error."""

    def refuse(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    path = tmp_path / "file"
    with path.open("wb") as file, suppress(OSError) if filler else pytest.raises(OSError, match="not supported"):
        reserve(file.fileno(), 1000, filler=filler)
    assert path.read_bytes() == content


@pytest.mark.parametrize("umask", [0o000, 0o027, 0o777])
def test_make_private_folder(tmp_path: Path, umask: int) -> None:
    """Each level that is created is 0700 with any umask, and an existing level keeps its mode."""
    existing = tmp_path / "existing"
    existing.mkdir()
    existing.chmod(0o755)
    folder = existing / "first" / "second" / "third"
    before = os.umask(umask)
    try:
        make_private_folder(folder)
        make_private_folder(folder)
    finally:
        os.umask(before)
    levels = (existing, folder.parent.parent, folder.parent, folder)
    assert [stat.S_IMODE(level.stat().st_mode) for level in levels] == [0o755, 0o700, 0o700, 0o700]


def test_make_private_folder_in_place_of_a_file(target: Path) -> None:
    """A file, or a link to nothing, where a folder should be is an error."""
    link = target.with_name("link")
    link.symlink_to(target.with_name("nothing"))
    for path in (target, target / "below", link, link / "below"):
        with pytest.raises(OSError, match=r"exists|Not a directory"):
            make_private_folder(path)


def test_no_other_way_to_make_parents() -> None:
    """The package has no other way to create several levels: theirs would depend on the umask."""
    package = Path(ocm_wsgi.__file__).parent
    assert [path for path in package.rglob("*.py") if re.search(r"parents=True|makedirs", path.read_text())] == []


def test_sync_folder(tmp_path: Path) -> None:
    """A folder can be synced; what is not there is an error."""
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")


def test_copy_owner(target: Path) -> None:
    """The file gets the owner and group of another."""
    other = target.with_name("other")
    other.touch()
    os.chown(other, 12345, 54321)
    with target.open("rb") as file:
        copy_owner(file.fileno(), other.stat())
    assert (target.stat().st_uid, target.stat().st_gid) == (12345, 54321)
