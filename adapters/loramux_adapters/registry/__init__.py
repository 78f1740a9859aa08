"""The database of adapters, their versions, aliases and audit log."""
