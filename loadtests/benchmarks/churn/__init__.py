"""Many adapters that come and go: throughput, load latency and scale."""
