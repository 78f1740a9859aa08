"""Hyperparameters: chosen by the data and the base, with memory and time estimates."""
