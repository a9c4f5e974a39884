"""OpenAI on loopback, for tests and the demo: its OAuth issuer, the Codex backend and the platform API.

It uses real sockets; every behaviour and every fault is configured by a :class:`Plan`. Imports nothing else of this
package.
"""

from __future__ import annotations

from ocm_wsgi.simulator.backend import PRIVATE_MARKER
from ocm_wsgi.simulator.plans import DEFAULT_TEXT, DEFAULT_USAGE, Gate, Plan
from ocm_wsgi.simulator.recording import Create, ReceivedRequest, Refresh, Sent, Turn
from ocm_wsgi.simulator.simulator import Simulator

__all__ = [
    "DEFAULT_TEXT",
    "DEFAULT_USAGE",
    "PRIVATE_MARKER",
    "Create",
    "Gate",
    "Plan",
    "ReceivedRequest",
    "Refresh",
    "Sent",
    "Simulator",
    "Turn",
]
