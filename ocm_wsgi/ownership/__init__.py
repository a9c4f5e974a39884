"""Decides who may use what OpenAI stores: only the user who created it, and admins."""

from __future__ import annotations

__all__ = ["access", "lists", "open_answer", "owners"]
