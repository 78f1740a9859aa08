"""Benchmarks of loramux itself, not installed: run `python -m benchmarks.NAME` in a checkout (see README.md)."""
