"""The state database, atomic file replacement, and values per process."""
