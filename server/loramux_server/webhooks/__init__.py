"""Webhooks: signed messages about ended jobs to the URLs in the settings, kept in the database until they arrive."""
