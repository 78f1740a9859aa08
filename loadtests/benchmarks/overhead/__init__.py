"""Overhead of loramux relative to stock vLLM: throughput, latency and start time."""
