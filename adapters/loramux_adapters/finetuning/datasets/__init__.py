"""Training files: reading, validation and reports."""
