"""Latency that the load test's client adds to its measurements."""
