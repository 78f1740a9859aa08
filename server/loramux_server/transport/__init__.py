"""The connections of clients: limits of what they send, time limits, and TLS."""
