"""``python -m ocm_wsgi.demo.tethered_gunicorn PID ARGUMENT...``: gunicorn that ends with process PID, its starter.

However that one ends, ``kill -9`` included. Linux only; elsewhere it is just gunicorn.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from gunicorn.app.wsgiapp import run

# linux/prctl.h; prctl(2). Holds for gunicorn's master; its workers end when they see it gone.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, and become gunicorn."""
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # It ended before we were tied to it.
        return
    run()


if __name__ == "__main__":
    main()
