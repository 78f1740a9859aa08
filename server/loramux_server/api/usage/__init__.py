"""The usage API: requests, latency and cost of each route."""
