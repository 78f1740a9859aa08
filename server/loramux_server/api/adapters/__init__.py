"""Administration of adapters: add, list, point names at versions, remove, audit."""
