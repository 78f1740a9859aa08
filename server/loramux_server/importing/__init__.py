"""Brings the fine-tuning jobs, data and model names of another provider to a loramux server."""
