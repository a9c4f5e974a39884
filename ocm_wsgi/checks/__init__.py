"""What is wrong, what it means and how to mend it: one module a subject. Nothing is changed, and nothing spent."""

from __future__ import annotations

from ocm_wsgi.checks.finding import Finding, Level

__all__ = ["Finding", "Level"]
