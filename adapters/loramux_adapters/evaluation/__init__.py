"""Scorers, statistics and verdicts: pure functions and values, shared by fine-tuning jobs and `loramux compare`."""
