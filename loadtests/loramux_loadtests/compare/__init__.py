"""`loramux compare`: variants of a model and prompt (arms) on the same items, by quality, tokens, latency and cost."""
