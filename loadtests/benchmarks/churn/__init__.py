"""Many adapters that are loaded and unloaded: throughput, load latency and scale."""
