"""What the load test's own client adds to what it measures."""
