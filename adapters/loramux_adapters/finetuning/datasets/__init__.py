"""Training files: reading, validation, reports, and the formats of others."""
