"""``python -m ocm_wsgi.simulator``: runs the simulator alone, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import signal
import ssl
from collections.abc import Sequence
from pathlib import Path

from ocm_wsgi.simulator.plans import Plan
from ocm_wsgi.simulator.simulator import Simulator


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m ocm_wsgi.simulator",
        description="Serve a simulated OpenAI on loopback until Ctrl-C. Its URL is the first line of the output.",
        epilog="A request is planned by its field X-Simulate (a JSON object), or beforehand with "
        "POST /_simulator/plan. GET /_simulator/state returns the records.",
    )
    found.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    found.add_argument("--port", type=int, default=0, help="port to bind (default: any free one)")
    found.add_argument("--credential-file", type=Path, metavar="PATH", help="write an auth.json for this simulator")
    found.add_argument("--tls-cert", type=Path, metavar="PATH", help="serve TLS with this certificate chain (PEM)")
    found.add_argument("--tls-key", type=Path, metavar="PATH", help="its private key (PEM)")
    found.add_argument(
        "--token-lifetime",
        type=float,
        default=3600.0,
        help="lifetime of access tokens in seconds (default: %(default)s)",
    )
    found.add_argument(
        "--interval", type=float, default=0.0, help="seconds between events of a response (default: %(default)s)"
    )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    options = parser().parse_args(arguments)
    context = None
    if options.tls_cert is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options.tls_cert, options.tls_key)
    # Blocked before any thread starts, so that all threads inherit this and only sigwait() receives the signals.
    termination_signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, termination_signals)
    with Simulator(options.host, options.port, context) as simulator:
        simulator.token_lifetime = options.token_lifetime
        simulator.default_plan = Plan(interval=options.interval)
        if options.credential_file is not None:
            write_credential(options.credential_file, simulator)
        print(simulator.url, flush=True)
        signal.sigwait(termination_signals)
    return 0


def write_credential(path: Path, simulator: Simulator) -> None:
    """Write an ``auth.json`` that only its owner can read."""
    content = simulator.credential(expires_in=simulator.token_lifetime)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)


if __name__ == "__main__":
    raise SystemExit(main())
