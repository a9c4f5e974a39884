"""ChatMock, started as its users would: ``chatmock serve``, one process with a thread per request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from benchmarks.others import Kind
from benchmarks.servers import Upstream
from benchmarks.service import owner_credential

#: Its upstream, hard-coded in its source: requests are redirected by a proxy, and always use TLS.
HOST = "chatgpt.com"


def _prepare(behind: Upstream, folder: Path) -> Mapping[str, str]:
    """Write a credential, and direct its requests to upstream's tunnels."""
    assert behind.tunnels is not None
    (folder / "auth.json").write_text(json.dumps(owner_credential()))
    return {
        "CHATGPT_LOCAL_HOME": str(folder),
        "HTTPS_PROXY": "http://{}:{}".format(*behind.tunnels.address),
        "REQUESTS_CA_BUNDLE": str(behind.tunnels.certificate.authority),
    }


KIND = Kind(
    name="chatmock",
    title="ChatMock",
    # The benchmarks' upstream has no list of models.
    arguments=("serve", "--no-model-sync"),
    prepare=_prepare,
    started="Running on",
    workers=1,
)
