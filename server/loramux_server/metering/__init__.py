"""Usage records, costs, the ledger, Prometheus metrics and traces of requests."""
