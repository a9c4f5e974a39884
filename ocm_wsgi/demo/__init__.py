"""``flask ocm demo``: the whole service running on loopback."""
