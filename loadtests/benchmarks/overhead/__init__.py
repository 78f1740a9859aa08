"""loramux against stock vLLM: throughput, latency and start-up time."""
