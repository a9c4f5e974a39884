"""ChatMock, started as its users would: ``chatmock serve``, one process with a thread per request."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.others import Kind, Prepared, host_and_port
from benchmarks.servers import Upstream
from benchmarks.service import owner_credential

#: Its upstream, hard-coded in its source: requests are redirected by a proxy, and always use TLS.
HOST = "chatgpt.com"


def _prepare(behind: Upstream, folder: Path, address: tuple[str, int]) -> Prepared:
    """Write a credential, and direct its requests to upstream's tunnels."""
    assert behind.tunnels is not None
    (folder / "auth.json").write_text(json.dumps(owner_credential()))
    environment = {
        "CHATGPT_LOCAL_HOME": str(folder),
        "HTTPS_PROXY": "http://{}:{}".format(*behind.tunnels.address),
        "REQUESTS_CA_BUNDLE": str(behind.tunnels.certificate.authority),
    }
    # The benchmarks' upstream has no list of models.
    return Prepared(("serve", "--no-model-sync", *host_and_port(address)), environment)


KIND = Kind(
    name="chatmock",
    title="ChatMock",
    prepare=_prepare,
    started="Running on",
    workers=1,
)
