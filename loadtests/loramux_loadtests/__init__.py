"""Load tests and comparisons over HTTP alone: they import neither of the other two packages."""
