"""How often confidence intervals contain the truth, by simulation: `python -m benchmarks.coverage`."""
