"""Logging, counters, and the requests in progress."""
