"""The ledger: one row a request, what was added up of them, and what is read from both."""
