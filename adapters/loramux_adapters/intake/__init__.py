"""Intake of adapter files: sources, validation, and the content-addressed store."""
