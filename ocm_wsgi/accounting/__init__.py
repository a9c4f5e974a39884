"""Prices each turn and records it once; sums, history and export."""
