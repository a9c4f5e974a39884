"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
import re
import ssl
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import ocm_wsgi
from benchmarks import eventloop, nginx
from benchmarks.others import Other

_CPU_MODEL = re.compile(r"^model name\s*: (.+)$", re.MULTILINE)


def describe(others: Sequence[Other] = ()) -> dict[str, str]:
    """Return what matters of this machine and its software, each by a short name.

    :param others: further programs, which are measured, too.
    """
    return {
        "ocm-wsgi": ocm_wsgi.__version__,
        "nginx": nginx.version(),
        **{other.kind.title: other.version for other in others},
        "gunicorn": metadata.version("gunicorn"),
        "requests": metadata.version("requests"),
        "urllib3": metadata.version("urllib3"),
        "Python": platform.python_version(),
        "OpenSSL": ssl.OPENSSL_VERSION.split()[1],
        "Linux": platform.release(),
        "CPUs": f"{len(os.sched_getaffinity(0))} × {_cpu_model()}",
        "load average": f"{os.getloadavg()[0]:.1f} at the start",
        "generator": "uvloop" if eventloop.has_uvloop() else "asyncio",
    }


def _cpu_model() -> str:
    found = _CPU_MODEL.search(Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()
