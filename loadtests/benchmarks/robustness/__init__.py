"""Corrupt adapters and faults: what is refused, and whether anybody else is affected."""
