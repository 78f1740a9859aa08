"""The commands of `loramux`, one module each; cli.py registers them."""
