"""What each request leaves behind: its usage record, and the Prometheus collectors that it moves."""
