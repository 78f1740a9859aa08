"""The trainer: a process of its own that turns a base, a training file and a recipe into an adapter's two files."""
