"""Ways of answering, on the same items: quality, tokens, latency, cost, and what that means."""
