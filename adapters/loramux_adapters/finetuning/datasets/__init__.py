"""Training files: reading, checking, and reporting on them."""
