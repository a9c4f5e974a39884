"""The certificates to trust at the token endpoint, passed from a worker to the process that refreshes."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocm_wsgi.config import Certificate
from ocm_wsgi.tls import contexts


def trust_as_json(certificate: Certificate | None) -> Mapping[str, Any] | None:
    """Return the configuration's ``certificate`` as JSON. Its paths are absolute."""
    return certificate.model_dump(mode="json", exclude_defaults=True) if certificate is not None else None


def context_from_json(trust: Mapping[str, Any] | None) -> ssl.SSLContext:
    """Return the TLS context for the result of :func:`trust_as_json`.

    :raises ConfigurationError: a certificate can no longer be read.
    """
    fields = dict(trust or {})
    for name in ("certificate_path", "certificate_directory_path"):
        fields[name] = tuple(map(Path, fields.get(name, ())))
    # Validated when the configuration was loaded; validating again would require the location of its file.
    return contexts.upstream_context(Certificate.model_construct(**fields))
