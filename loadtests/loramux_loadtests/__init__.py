"""Load tests and comparisons of servers over HTTP."""
