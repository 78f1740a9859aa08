"""Ways of answering, side by side on the same items: quality, tokens, latency, cost, and what that means."""
