"""The log, counters, and the requests that are under way."""
