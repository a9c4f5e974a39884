"""The data behind the dashboard, the JSON endpoints and the Prometheus metrics."""
