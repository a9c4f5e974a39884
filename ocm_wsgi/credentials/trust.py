"""Whom the token endpoint's certificate is checked against, as it travels from a worker to the process that renews."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ocm_wsgi.config import Certificate
from ocm_wsgi.tls import contexts


def trust_as_json(certificate: Certificate | None) -> Mapping[str, Any] | None:
    """Return the configuration's ``certificate`` as JSON would have it. Its paths are absolute."""
    return certificate.model_dump(mode="json", exclude_defaults=True) if certificate is not None else None


def context_from_json(trust: Mapping[str, Any] | None) -> ssl.SSLContext:
    """Return the context for what :func:`trust_as_json` made.

    :raises ConfigurationError: what should be trusted cannot be read, by now.
    """
    fields = dict(trust or {})
    for name in ("certificate_path", "certificate_directory_path"):
        fields[name] = tuple(map(Path, fields.get(name, ())))
    # Validated when the configuration was read; validating again would need to know beside which file it stood.
    return contexts.upstream_context(Certificate.model_construct(**fields))
