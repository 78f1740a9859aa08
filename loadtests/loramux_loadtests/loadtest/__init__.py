"""Open-loop load tests: each request is sent at its scheduled time, whether or not the server keeps up."""
