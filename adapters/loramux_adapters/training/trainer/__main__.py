"""`python -m loramux_adapters.training.trainer`."""

import sys

from loramux_adapters.training.trainer.command import main

if __name__ == "__main__":
    sys.exit(main())
