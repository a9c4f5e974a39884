"""Decides whether a user may run a turn now."""
