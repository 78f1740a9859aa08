"""The commands of `loramux`, one module per command; main.py registers them."""
