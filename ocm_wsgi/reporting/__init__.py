"""What pages, JSON and Prometheus show, as data."""
