"""Residency: the versions in the engine's memory, with loads, leases, evictions and pins."""
