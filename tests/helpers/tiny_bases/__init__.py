"""Bases of a few hundred thousand random parameters, of every architecture that transformers has a config for."""
