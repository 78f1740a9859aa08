"""API keys that are issued at run time: stored as hashes, looked up in memory, shared by all servers of a database."""
