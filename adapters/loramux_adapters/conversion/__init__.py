"""Conversion of weights that PyTorch pickled, in a process of its own that can do nothing else."""
