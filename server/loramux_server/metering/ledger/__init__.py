"""The ledger: one row per request, hourly rollups, and queries over both."""
