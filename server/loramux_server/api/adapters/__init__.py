"""The administration API for adapters: add, list, point names at versions, remove, audit."""
