"""Controlled results: what fine-tuning jobs and experiments measured, and the break-even that follows."""
