"""Scripts that measure loramux itself. Not installed; run from a checkout with `python -m benchmarks.NAME`."""
