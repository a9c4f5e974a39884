"""``python -m ocm_wsgi.demo.child_gunicorn PID ARGUMENT...``: gunicorn that ends with its parent, process PID.

It ends however its parent does, including ``kill -9``. On Linux only; elsewhere it is plain gunicorn.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from gunicorn.app.wsgiapp import run

# linux/prctl.h; prctl(2). Applies to gunicorn's master; its workers end when they notice that it is gone.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Arrange for SIGTERM at the parent's death, and run gunicorn."""
    parent = int(sys.argv.pop(1))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # The parent ended before prctl took effect.
        return
    run()


if __name__ == "__main__":
    main()
