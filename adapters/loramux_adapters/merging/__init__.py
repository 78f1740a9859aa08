"""Merging an adapter into its base: a standalone model, whose answers are compared with the adapter's."""
