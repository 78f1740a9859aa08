"""Adapters: sources, validation, storage, registry, residency in the engine, evaluation and fine-tuning."""
