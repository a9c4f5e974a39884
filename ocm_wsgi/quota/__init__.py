"""Limits of users, and shares of the subscription's windows. Pure; no I/O."""
