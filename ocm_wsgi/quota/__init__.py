"""Limits of users, and shares in the subscription's windows. Pure; no I/O."""
