"""Compiles what answers must match in processes with limits, before the engine does."""
