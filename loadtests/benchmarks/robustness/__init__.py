"""Corrupt adapters and faults: which are rejected, and whether other requests are affected."""
