"""Which adapter versions are in the engine's memory: loads, leases, eviction, pins."""
