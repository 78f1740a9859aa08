"""Limits and budgets of API keys, projects and adapters."""
