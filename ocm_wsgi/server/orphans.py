"""Orphans of workers: a refresh that continues in its own process after the worker that started it has exited.

In a container, everything is killed as soon as the first process exits, and a refresh token that can be used only once
would be lost with the process that presented it. So gunicorn's master adopts its descendants and exits after them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import time

from ocm_wsgi.credentials import Timeouts

_log = logging.getLogger(__name__)

# linux/prctl.h; PR_SET_CHILD_SUBREAPER in prctl(2). Not inherited by workers.
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.05


def adopt() -> None:
    """Become the parent of every descendant whose own parent exits, as process 1 of a container is anyway.

    gunicorn reaps such children like its own. On Linux only; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def wait(*, timeout_seconds: float | None = None) -> None:
    """Wait until no child is left.

    :param timeout_seconds: the longest time to wait; by default, the longest time that a refresh can take.
    """
    if timeout_seconds is None:
        timeout_seconds = Timeouts().total_seconds
    deadline = time.monotonic() + timeout_seconds
    has_logged = False
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG) != (0, 0):
                continue
            if not has_logged:
                _log.info("Waiting for the refresh of the credential to end")
                has_logged = True
            time.sleep(_POLL_SECONDS)
