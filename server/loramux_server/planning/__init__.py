"""Plans the memory of a GPU before the engine starts: what fits, which settings follow, and what would help."""
