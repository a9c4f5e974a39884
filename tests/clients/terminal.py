"""A terminal for programs with a text user interface: types, presses keys, and answers what the program asks of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.relay.test_live import poll

ESCAPE, ENTER = b"\x1b", b"\r"

_ROWS, _COLUMNS = 40, 120
# What programs ask for when they start: the cursor's position, the terminal's kind, its keyboard protocol, its colours.
_ANSWERS = {
    b"\x1b[6n": b"\x1b[1;1R",
    b"\x1b[c": b"\x1b[?62;22c",
    b"\x1b[?u": b"\x1b[?0u",
    b"\x1b]10;?": b"\x1b]10;rgb:0000/0000/0000\x1b\\",
    b"\x1b]11;?": b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\",
}
_QUESTION = re.compile(b"|".join(map(re.escape, _ANSWERS)))


class Terminal:
    """A running program, and all that it has written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press(self, keys: bytes) -> None:
        """Send keys to the program."""
        os.write(self._descriptor, keys)

    def type(self, text: bytes) -> None:
        """Send text, and wait until the program shows it: keys that follow too soon would belong to a paste."""
        shown = self.written.count(text)
        self.press(text)
        poll(lambda: self.written.count(text) > shown)

    def _read(self) -> None:
        # Linux reports EIO when the program has closed its side.
        with contextlib.suppress(OSError):
            while data := os.read(self._descriptor, 65536):
                answered = len(self.written)
                self.written += data
                for question in _QUESTION.finditer(self.written, max(answered - 8, 0)):
                    if question.end() > answered:
                        self.press(_ANSWERS[question[0]])


@contextmanager
def run_in_terminal(command: Sequence[str], *, environ: Mapping[str, str], folder: Path) -> Iterator[Terminal]:
    """Run a program in a terminal, and kill it at the end."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environ, "TERM": "xterm-256color"},
        stdin=far,
        stdout=far,
        stderr=far,
        start_new_session=True,
    )
    os.close(far)
    try:
        yield Terminal(near)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(near)
