"""The database of adapters, versions and aliases, with its audit log."""
