"""Adapters: where they come from, whether they may be served, where they are kept, and how they are made."""
