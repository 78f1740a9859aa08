"""What runs inside vLLM's worker and scheduler processes."""
