"""``ocm``: the console script."""

from __future__ import annotations

import signal


def main() -> None:
    """Run a command. Until it begins, Ctrl-C ends the process at once: imports cannot be interrupted cleanly."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ocm_wsgi.program import ocm

    ocm(prog_name="ocm")


if __name__ == "__main__":
    main()
