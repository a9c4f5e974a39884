"""What the service costs, measured beside nginx on the same machine: ``python -m benchmarks`` (docs/benchmarks.md)."""
