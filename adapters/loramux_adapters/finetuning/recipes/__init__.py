"""Recipes: hyperparameters chosen by the data and the base, and estimates of memory and time."""
