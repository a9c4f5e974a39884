"""The files in ``deploy/``, with the names of one installation filled in."""

from __future__ import annotations

from ocm_wsgi.deployment.rendering import KINDS, Installation, UnusableInstallation, is_host_name, render

__all__ = ["KINDS", "Installation", "UnusableInstallation", "is_host_name", "render"]
