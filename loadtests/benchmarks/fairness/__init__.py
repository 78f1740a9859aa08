"""Measures how a busy server is shared."""
