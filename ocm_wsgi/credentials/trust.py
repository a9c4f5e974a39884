"""The certificates to trust at the token endpoint, passed from a worker to the process that refreshes.

Needs no configuration: importing it would take that process twice as long as everything else that it imports.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocm_wsgi.tls import contexts


@dataclass(frozen=True)
class _Trust:
    """:class:`~ocm_wsgi.tls.contexts.TrustSettings` that the configuration has validated."""

    store: str | None = None
    certificate: str | None = None
    certificate_path: tuple[Path, ...] = ()
    certificate_directory_path: tuple[Path, ...] = ()


def trust_as_json(certificate: contexts.TrustSettings | None) -> Mapping[str, Any] | None:
    """Return the configuration's ``certificate`` as JSON. Its paths are absolute."""
    if certificate is None:
        return None
    values = {field.name: getattr(certificate, field.name) for field in dataclasses.fields(_Trust)}
    return {name: [*map(str, value)] if isinstance(value, tuple) else value for name, value in values.items()}


def context_from_json(trust: Mapping[str, Any] | None) -> ssl.SSLContext:
    """Return the TLS context for the result of :func:`trust_as_json`.

    :raises ConfigurationError: a certificate can no longer be read.
    """
    fields = dict(trust or {})
    for name in ("certificate_path", "certificate_directory_path"):
        fields[name] = tuple(map(Path, fields.get(name, ())))
    return contexts.upstream_context(_Trust(**fields))
