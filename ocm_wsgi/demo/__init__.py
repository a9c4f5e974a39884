"""``flask ocm demo``: the whole service at work on loopback."""
