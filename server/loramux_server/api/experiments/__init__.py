"""`/admin/experiments` and `/v1/feedback`."""
