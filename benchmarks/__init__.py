"""Benchmarks of the service, compared with nginx on the same machine: ``python -m benchmarks`` (docs/benchmarks.md)."""
